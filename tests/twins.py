"""Client and AsyncClient behind one interface, so that each test covers both."""

import asyncio
from collections.abc import Iterator
from typing import Any

from foursight import AsyncClient, Client

KINDS = ("sync", "async")


def make(kind: str, url: str, **settings: Any) -> Any:
    """A Client, or an AsyncClient wrapped to look like one."""
    return Client(url, **settings) if kind == "sync" else Driven(url, **settings)


class Driven:
    """An AsyncClient with a private event loop, which runs each call to its end."""

    def __init__(self, url: str, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(url, **settings)

    def __enter__(self) -> "Driven":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name.endswith("_many"):
            return lambda *args, **options: self._iterate(method(*args, **options))
        return lambda *args, **options: self._loop.run_until_complete(method(*args, **options))

    def _iterate(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(anext(results))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(results.aclose())
