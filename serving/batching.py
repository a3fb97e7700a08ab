"""Batching without waiting: what stands in the queue when the network is free is computed together.

A lone request starts at once; while a batch computes, arrivals gather and form the next one. So the batch size follows
the load by itself, and no request ever waits for company. (Crankshaw et al., "Clipper", 2017, section 4.3, bounds such
batches by a latency target and a waiting time; here the bound is the maximum batch, and there is no waiting time.)
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Timing:
    """Where the time of one item went, in seconds, and how many items were computed with it."""

    queue: float
    inference: float
    batch: int


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "Future[tuple[Result, Timing]]"
    since: float = field(default_factory=perf_counter)


class Batcher(Generic[Item, Result]):
    """A queue and the one thread that computes. `compute` maps a list of items to as many results, in order."""

    def __init__(
        self,
        compute: Callable[[list[Item]], list[Result]],
        max_batch: int,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._observe = observe
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the computing thread runs."""
        return self._thread.is_alive()

    async def submit(self, item: Item) -> tuple[Result, Timing]:
        """Queue an item and wait for its result. An item whose caller is cancelled is never computed.

        Raises whatever `compute` raises for this item, and RuntimeError after `close`.
        """
        waiting: _Waiting[Item, Result] = _Waiting(item, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._queue.append(waiting)
            self._changed.notify()
        return await asyncio.wrap_future(waiting.future)

    def close(self) -> None:
        """Let the thread end after the batch at hand; what still waits is cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for waiting in self._queue:
            waiting.future.cancel()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                batch = self._take()
            if batch:
                self._answer(batch)

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.future.set_running_or_notify_cancel():
                batch.append(waiting)
        return batch

    def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        start = perf_counter()
        try:
            results = self._compute([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items went in and {len(results)} results came out")
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One item must not fail its neighbours: each is tried alone, and only the culprit gets the error.
            for waiting in batch:
                self._answer([waiting])
            return
        inference = perf_counter() - start
        if self._observe:
            self._observe(len(batch), inference)
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result((result, Timing(start - waiting.since, inference, len(batch))))
