"""Batching without waiting: whatever is in the queue when the network becomes free is computed together.

A lone request starts at once; while a batch computes, new arrivals queue up and form the next one. So the batch size
follows the load, and no request waits for a batch to fill. (Crankshaw et al., "Clipper", 2017, section 4.3, bounds such
batches by a latency target and a batching delay; here the bound is the maximum batch size, and there is no delay.)
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


class BatcherFailed(Exception):
    """A fatal error has ended the compute thread: nothing more can be computed."""


@dataclass
class Timing:
    """Seconds that an item spent in the queue and in `compute`, and the number of items computed with it."""

    queue_s: float
    inference_s: float
    batch_size: int


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "Future[tuple[Result, Timing]]"
    since: float = field(default_factory=perf_counter)


class Batcher(Generic[Item, Result]):
    """A queue and the one thread that computes.

    `compute` maps a list of items to as many results, in order. `observe` is called with the size and the seconds of
    each batch. After an error for which `is_fatal` returns true, the batcher is dead: see `alive`.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], list[Result]],
        max_batch: int,
        observe: Callable[[int, float], None] | None = None,
        is_fatal: Callable[[BaseException], bool] = lambda error: False,
    ) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._observe = observe
        self._is_fatal = is_fatal
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BatcherFailed | None = None
        self._computing_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the batcher can compute: its thread is running, and no error was fatal."""
        return self._thread.is_alive() and self._failure is None

    @property
    def computing_s(self) -> float:
        """Seconds since the current batch was begun; 0 without one."""
        since = self._computing_since
        return 0.0 if since is None else perf_counter() - since

    async def submit(self, item: Item) -> tuple[Result, Timing]:
        """Queue an item and return its result. An item whose caller is cancelled before it starts is never computed.

        Raises what `compute` raises for this item, BatcherFailed after a fatal error, RuntimeError after `close`.
        """
        waiting: _Waiting[Item, Result] = _Waiting(item, Future())
        with self._changed:
            if self._failure:
                raise self._failure
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._queue.append(waiting)
            self._changed.notify()
        return await asyncio.wrap_future(waiting.future)

    def close(self) -> None:
        """End the thread after the current batch; items in the queue are cancelled."""
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
            try:
                self._answer(batch)
            except BatcherFailed as failure:
                self._fail(failure, batch)
                return

    def _take(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        while self._queue and len(batch) < self._max_batch:
            waiting = self._queue.popleft()
            if waiting.future.set_running_or_notify_cancel():
                batch.append(waiting)
        return batch

    def _answer(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Compute a batch and set its results. Raises BatcherFailed after a fatal error."""
        if not batch:
            return
        start = self._computing_since = perf_counter()
        try:
            results = self._compute([waiting.item for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"compute returned {len(results)} results for {len(batch)} items")
        except Exception as error:
            if self._is_fatal(error):
                raise BatcherFailed(f"fatal error while computing: {error}") from error
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One item must not fail the others: each is computed alone, and only the culprit gets the error.
            for waiting in batch:
                self._answer([waiting])
            return
        finally:
            self._computing_since = None
        inference_s = perf_counter() - start
        if self._observe:
            self._observe(len(batch), inference_s)
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result((result, Timing(start - waiting.since, inference_s, len(batch))))

    def _fail(self, failure: BatcherFailed, batch: list[_Waiting[Item, Result]]) -> None:
        with self._changed:
            self._failure = failure
        # With `_failure` set, nothing more is queued.
        queued = [waiting for waiting in self._queue if waiting.future.set_running_or_notify_cancel()]
        self._queue.clear()
        for waiting in (*batch, *queued):
            if not waiting.future.done():
                waiting.future.set_exception(failure)
