"""The batcher: a lone item starts at once, arrivals form the next batch, and no item fails another."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from foursight.serving.batching import Batcher, BatcherFailed

PATIENCE_S = 30


class Compute:
    """Multiplies by ten. Records its batches, holds each until `gate` is open, and fails on negative numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.gate = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.started.set()
        assert self.gate.wait(PATIENCE_S)
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {[item for item in items if item < 0]}")
        return [10 * item for item in items]


@pytest.fixture
def compute() -> Compute:
    return Compute()


@pytest.fixture
def batcher(compute: Compute) -> Iterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(compute, 4)
    yield batcher
    compute.gate.set()
    batcher.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


async def queue_behind(batcher: Batcher[int, int], compute: Compute, items: list[int]) -> list[asyncio.Task]:
    """Start computing item 0 and queue `items`; return their tasks, that of item 0 first."""
    first = asyncio.create_task(batcher.submit(0))
    assert await asyncio.to_thread(compute.started.wait, PATIENCE_S)
    rest = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)
    assert len(batcher) == len(items)
    return [first, *rest]


def test_a_lone_item_is_computed_at_once(batcher: Batcher[int, int], compute: Compute) -> None:
    compute.gate.set()

    async def scenario() -> None:
        for item in (3, 4):
            result, timing = await batcher.submit(item)
            assert (result, timing.batch_size) == (10 * item, 1)

    run(scenario)
    assert compute.batches == [[3], [4]]


def test_what_arrives_during_a_batch_is_computed_together(batcher: Batcher[int, int], compute: Compute) -> None:
    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, list(range(1, 11)))
        compute.gate.set()
        answers = await asyncio.gather(*tasks)
        assert [result for result, _ in answers] == [10 * item for item in range(11)]
        assert [timing.batch_size for _, timing in answers] == [1, 4, 4, 4, 4, 4, 4, 4, 4, 2, 2]

    run(scenario)
    assert compute.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_every_item_is_computed_exactly_once(batcher: Batcher[int, int], compute: Compute) -> None:
    compute.gate.set()

    async def scenario() -> None:
        answers = await asyncio.gather(*(batcher.submit(item) for item in range(500)))
        assert [result for result, _ in answers] == [10 * item for item in range(500)]

    run(scenario)
    assert sorted(item for batch in compute.batches for item in batch) == list(range(500))
    assert max(map(len, compute.batches)) <= 4
    assert len(batcher) == 0


def test_a_failing_item_does_not_fail_the_rest_of_its_batch(batcher: Batcher[int, int], compute: Compute) -> None:
    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1, -2, 3, -4])
        compute.gate.set()
        zero, one, minus_two, three, minus_four = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answer[0] for answer in (zero, one, three)] == [0, 10, 30]
        assert str(minus_two) == "negative: [-2]"
        assert str(minus_four) == "negative: [-4]"

    run(scenario)
    assert batcher.alive


def test_after_a_lone_failure_the_next_item_is_computed(batcher: Batcher[int, int], compute: Compute) -> None:
    compute.gate.set()

    async def scenario() -> None:
        with pytest.raises(ValueError, match=r"negative: \[-1\]"):
            await batcher.submit(-1)
        assert (await batcher.submit(1))[0] == 10

    run(scenario)
    assert compute.batches == [[-1], [1]]


def test_a_cancelled_item_is_never_computed(batcher: Batcher[int, int], compute: Compute) -> None:
    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1, 2, 3, 4, 5])
        for index in (1, 3):
            tasks[index].cancel()
        await asyncio.sleep(0)
        compute.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert isinstance(answers[3], asyncio.CancelledError)
        assert [answers[index][0] for index in (0, 2, 4, 5)] == [0, 20, 40, 50]

    run(scenario)
    # A cancelled item takes no place in the batch either.
    assert compute.batches == [[0], [2, 4, 5]]


def test_a_queue_of_cancelled_items_is_skipped(batcher: Batcher[int, int], compute: Compute) -> None:
    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1, 2])
        for task in tasks[1:]:
            task.cancel()
        await asyncio.sleep(0)
        compute.gate.set()
        await tasks[0]
        assert (await batcher.submit(3))[0] == 30

    run(scenario)
    assert compute.batches == [[0], [3]]


def test_cancelling_an_item_in_the_network_does_not_affect_the_rest(
    batcher: Batcher[int, int], compute: Compute
) -> None:
    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1])
        tasks[0].cancel()
        await asyncio.sleep(0)
        compute.gate.set()
        assert (await tasks[1])[0] == 10
        assert tasks[0].cancelled()

    run(scenario)
    assert batcher.alive


async def until_refused(batcher: Batcher[int, int]) -> str:
    """Submit and cancel items until one is refused."""
    while True:
        probe = asyncio.create_task(batcher.submit(99))
        await asyncio.sleep(0)
        if probe.done():
            return str(probe.exception())
        probe.cancel()
        await asyncio.sleep(0)


def test_closing_finishes_the_current_batch_and_cancels_the_queue(batcher: Batcher[int, int], compute: Compute) -> None:
    async def scenario() -> None:
        computing, waiting = await queue_behind(batcher, compute, [1])
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        assert await until_refused(batcher) == "the batcher is closed"
        compute.gate.set()
        assert (await computing)[0] == 0
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await closing

    run(scenario)
    assert compute.batches == [[0]]
    assert not batcher.alive


def test_the_observer_is_called_for_every_batch() -> None:
    compute, seen = Compute(), []
    batcher: Batcher[int, int] = Batcher(compute, 2, lambda size, seconds: seen.append((size, seconds >= 0)))

    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1, 2, 3])
        compute.gate.set()
        await asyncio.gather(*tasks)

    run(scenario)
    batcher.close()
    assert seen == [(1, True), (2, True), (1, True)]


def test_a_wrong_number_of_results_is_an_error_and_the_thread_continues() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [] if 0 in items else items, 4)

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="returned 0 results for 1 items"):
            await batcher.submit(0)
        assert (await batcher.submit(7))[0] == 7

    run(scenario)
    batcher.close()


class DeviceLost(RuntimeError):
    pass


def test_after_a_fatal_error_all_that_wait_fail_and_the_batcher_is_dead() -> None:
    compute = Compute()

    def lose_the_device(items: list[int]) -> list[int]:
        compute(items)
        raise DeviceLost

    batcher: Batcher[int, int] = Batcher(lose_the_device, 2, is_fatal=lambda error: isinstance(error, DeviceLost))

    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [1, 2, 3])
        tasks[3].cancel()
        await asyncio.sleep(0)
        compute.gate.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [BatcherFailed] * 3 + [asyncio.CancelledError]
        assert not batcher.alive
        with pytest.raises(BatcherFailed):
            await batcher.submit(4)

    run(scenario)
    batcher.close()
    assert compute.batches == [[0]]


def test_a_fatal_error_while_items_are_tried_alone_fails_those_that_are_left() -> None:
    compute = Compute()

    def fail(items: list[int]) -> list[int]:
        if len(items) == 1 and items[0] > 0:
            raise DeviceLost
        return compute(items)

    batcher: Batcher[int, int] = Batcher(fail, 3, is_fatal=lambda error: isinstance(error, DeviceLost))

    async def scenario() -> None:
        tasks = await queue_behind(batcher, compute, [-1, 2, 3])
        compute.gate.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [tuple, ValueError, BatcherFailed, BatcherFailed]

    run(scenario)
    batcher.close()
    assert not batcher.alive


def test_an_error_that_is_not_fatal_leaves_the_batcher_alive() -> None:
    compute = Compute()
    compute.gate.set()
    batcher: Batcher[int, int] = Batcher(compute, 2, is_fatal=lambda error: isinstance(error, DeviceLost))

    async def scenario() -> None:
        with pytest.raises(ValueError, match="negative"):
            await batcher.submit(-1)
        assert (await batcher.submit(1))[0] == 10

    run(scenario)
    assert batcher.alive
    batcher.close()
