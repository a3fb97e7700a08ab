"""Client and AsyncClient behind one face, so that each test of one is a test of both."""

import asyncio
from collections.abc import Iterator
from typing import Any

from foursight import AsyncClient, Client

KINDS = ("sync", "async")


def make(kind: str, url: str, **settings: Any) -> Any:
    """A Client, or an AsyncClient that is driven by a loop of its own and looks like one."""
    return Client(url, **settings) if kind == "sync" else Driven(url, **settings)


class Driven:
    """An AsyncClient whose coroutines are run to their end, and whose generators are iterated."""

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
