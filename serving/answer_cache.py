"""Identical requests share one computation, and recent answers are reused.

All methods run on one event loop, so nothing can change between a lookup and the update that follows it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

Value = TypeVar("Value")
# Found in the cache; shared with a request that is already computing it; computed.
CacheStatus = Literal["hit", "shared", "miss"]


@dataclass(eq=False)
class InFlight(Generic[Value]):
    """A computation and the number of requests that wait for it."""

    task: "asyncio.Task[Value]"
    waiters: int = 0


class AnswerCache(Generic[Value]):
    """Answers by key, up to `capacity` bytes as `size` counts them; the least recently used are evicted first."""

    def __init__(self, capacity: int, size: Callable[[Value], int]) -> None:
        self._capacity = capacity
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._bytes = 0
        self._in_flight: dict[Hashable, InFlight[Value]] = {}

    def get_or_compute(
        self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]
    ) -> tuple[CacheStatus, Awaitable[Value]]:
        """Return where the answer comes from, and the answer, which must be awaited at once.

        An error of `compute` reaches every waiter and is not cached. Cancelling one waiter does not affect the others;
        cancelling the last one cancels the computation.
        """
        if key in self._values:
            self._values.move_to_end(key)
            return "hit", _ready(self._values[key])
        flight = self._in_flight.get(key)
        status: CacheStatus = "shared" if flight else "miss"
        if flight is None:
            flight = self._in_flight[key] = InFlight(asyncio.create_task(compute()))
            flight.task.add_done_callback(partial(self._store, key, flight))
        flight.waiters += 1
        return status, self._wait(key, flight)

    def accepts(self, value: Value) -> bool:
        """Whether an answer is small enough to be cached."""
        return self._size(value) <= self._capacity

    async def _wait(self, key: Hashable, flight: InFlight[Value]) -> Value:
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # A later request must not join a computation that is being cancelled.
                del self._in_flight[key]
                flight.task.cancel()

    def _store(self, key: Hashable, flight: InFlight[Value], task: "asyncio.Task[Value]") -> None:
        if self._in_flight.get(key) is not flight:
            return
        del self._in_flight[key]
        if task.cancelled() or task.exception() or not self.accepts(task.result()):
            return
        self._values[key] = task.result()
        self._bytes += self._size(task.result())
        while self._bytes > self._capacity:
            self._bytes -= self._size(self._values.popitem(last=False)[1])


async def _ready(value: Value) -> Value:
    return value
