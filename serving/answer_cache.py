"""Repeated questions answered once: who asks what is being computed shares it, and recent answers are kept.

All of it runs on one event loop, so that between a look and what follows from it nothing else happens.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

Value = TypeVar("Value")
# From what was kept; from a computation that another question began; by computing.
Way = Literal["hit", "shared", "miss"]


@dataclass(eq=False)
class _Flight(Generic[Value]):
    """A computation and how many wait for it."""

    task: "asyncio.Task[Value]"
    waiting: int = 0


class Repeats(Generic[Value]):
    """Answers by question, at most `limit` bytes of them by `size`; those that were asked for longest ago go first."""

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        self._limit = limit
        self._size = size
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._bytes = 0
        self._flights: dict[Hashable, _Flight[Value]] = {}

    def ask(self, key: Hashable, compute: Callable[[], Coroutine[Any, Any, Value]]) -> tuple[Way, Awaitable[Value]]:
        """How a question is answered, and its answer, which has to be awaited at once.

        An error of `compute` reaches all that wait for it, and is not kept. Who is cancelled leaves the others their
        answer; the last one that leaves cancels the computation.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return "hit", _ready(self._kept[key])
        flight = self._flights.get(key)
        way: Way = "shared" if flight else "miss"
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(compute()))
            flight.task.add_done_callback(partial(self._land, key, flight))
        flight.waiting += 1
        return way, self._wait(key, flight)

    def has_room_for(self, value: Value) -> bool:
        """Whether an answer is kept at all."""
        return self._size(value) <= self._limit

    async def _wait(self, key: Hashable, flight: _Flight[Value]) -> Value:
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # Who asks from now on must not join what ends.
                del self._flights[key]
                flight.task.cancel()

    def _land(self, key: Hashable, flight: _Flight[Value], task: "asyncio.Task[Value]") -> None:
        if self._flights.get(key) is not flight:
            return
        del self._flights[key]
        if task.cancelled() or task.exception() or not self.has_room_for(task.result()):
            return
        self._kept[key] = task.result()
        self._bytes += self._size(task.result())
        while self._bytes > self._limit:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])


async def _ready(value: Value) -> Value:
    return value
