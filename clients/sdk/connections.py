"""The connections of a client: a pool per process and, with asyncio, per event loop. They are made on first use.

A forked process has copies of its parent's sockets. If both used them, each would read answers to the other's requests.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from foursight.clients.sdk import proxies
from foursight.clients.sdk.errors import CannotConnect

Http = TypeVar("Http", bound=httpx.Client | httpx.AsyncClient)


@dataclass(frozen=True)
class Pool(Generic[Http]):
    """The connections of one process or event loop: to the `server`, and to any web server for images."""

    make: Callable[..., Http]
    server: Http
    web_settings: dict[str, Any]
    _web: dict[str, Http] = field(default_factory=dict)

    def web(self) -> Http:
        """Return the connections for fetching images. Raises CannotConnect if the proxy's settings are invalid."""
        # `setdefault` is atomic, so threads share one client. A lock could be held by another thread during a fork.
        return self._web.get("") or self._web.setdefault("", _open(self.make, self.web_settings))

    def both(self) -> list[Http]:
        """Return the open clients."""
        return [self.server, *self._web.values()]


class Connections(Generic[Http]):
    """Makes the pool for the process, and the event loop, that asks for it.

    Pools of another process are kept but not used: to close them would disturb their owner. Raises CannotConnect if the
    environment has a proxy that cannot be used.
    """

    def __init__(
        self, make: Callable[..., Http], server_settings: dict[str, Any], web_settings: dict[str, Any]
    ) -> None:
        self._make = make
        self._server_settings = server_settings
        self._web_settings = web_settings
        self._pools: dict[tuple[int, asyncio.AbstractEventLoop | None], Pool[Http]] = {}
        self._closed = False

    def pool(self, loop: asyncio.AbstractEventLoop | None = None) -> Pool[Http]:
        """Return the pool of this process and `loop`. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the client is closed")
        key = os.getpid(), loop
        found = self._pools.get(key)
        if found is None:
            self._forget_ended_loops()
            server = _open(self._make, self._server_settings)
            found = self._pools.setdefault(key, Pool(self._make, server, self._web_settings))
        return found

    def close(self, loop: asyncio.AbstractEventLoop | None = None) -> list[Http]:
        """Return the clients of this process and `loop` for closing. Those of other loops end with their loops."""
        self._closed = True
        pool = self._pools.pop((os.getpid(), loop), None)
        return pool.both() if pool else []

    def _forget_ended_loops(self) -> None:
        """Drop the pools of closed event loops: `asyncio.run` makes a loop for each call."""
        for pid, loop in list(self._pools):
            if pid == os.getpid() and loop is not None and loop.is_closed():
                self._pools.pop((pid, loop), None)


def _open(make: Callable[..., Http], settings: dict[str, Any]) -> Http:
    try:
        return make(**settings)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        # The address and the other settings were checked before, so it is the environment's proxy.
        raise CannotConnect(
            f"The proxy settings in the environment ({proxies.variables()}) cannot be used: {error}"
        ) from error
