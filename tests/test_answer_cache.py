"""The answer cache: alone on an event loop, and over a real socket to a worker's endpoint."""

import asyncio
import gc
import re
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from foursight.models import catalogue
from foursight.serving.answer_cache import AnswerCache
from foursight.serving.endpoint import Endpoint
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.settings import Settings
from tests.photos import encoded, photo
from tests.shapes import write_model
from tests.test_analyze import until

COFFEE = encoded(photo("coffee"), "JPEG")
CHELSEA = encoded(photo("chelsea"), "JPEG")
HIT, SHARED, MISS = "foursight; hit", "foursight; fwd=miss; collapsed", "foursight; fwd=miss"
STORED = f"{MISS}; stored"


class Slow:
    """A computation that ends on demand; counts how often it was started and how often it was cancelled."""

    def __init__(self, value: str = "value") -> None:
        self.value = value
        self.go = asyncio.Event()
        self.begun = self.cancelled = 0

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.value == "error":
            raise ValueError(self.value)
        return self.value


def run(test: Callable[[AnswerCache[str]], Coroutine[Any, Any, None]], limit: int = 100) -> None:
    asyncio.run(test(AnswerCache(limit, len)))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def begin(answer: Awaitable[str]) -> "asyncio.Task[str]":
    async def wait() -> str:
        return await answer

    task = asyncio.create_task(wait())
    await settle()
    return task


def test_requests_in_flight_share_one_computation_and_its_answer_is_cached() -> None:
    async def test(cache: AnswerCache[str]) -> None:
        slow = Slow()
        asked = [cache.get_or_compute("key", slow) for _ in range(3)]
        waiting = [await begin(answer) for _, answer in asked]
        slow.go.set()
        assert await asyncio.gather(*waiting) == ["value"] * 3
        result, answer = cache.get_or_compute("key", slow)
        assert await answer == "value"
        assert [one for one, _ in asked] + [result] == ["miss", "shared", "shared", "hit"]
        assert slow.begun == 1

    run(test)


@pytest.mark.parametrize("first", [0, 1])
def test_cancelling_one_waiter_does_not_affect_the_others(first: int) -> None:
    async def test(cache: AnswerCache[str]) -> None:
        slow = Slow()
        waiting = [await begin(cache.get_or_compute("key", slow)[1]) for _ in range(2)]
        waiting[first].cancel()
        await settle()
        assert waiting[first].cancelled()
        slow.go.set()
        assert await waiting[1 - first] == "value"
        assert (slow.begun, slow.cancelled) == (1, 0)

    run(test)


def test_cancelling_the_last_waiter_ends_the_computation_and_the_next_request_starts_a_new_one() -> None:
    async def test(cache: AnswerCache[str]) -> None:
        slow = Slow()
        waiting = [await begin(cache.get_or_compute("key", slow)[1]) for _ in range(2)]
        for task in waiting:
            task.cancel()
            # Only the waiter has run: the computation is being cancelled, but has not ended yet.
            await asyncio.sleep(0)
        result, answer = cache.get_or_compute("key", slow)
        late = await begin(answer)
        slow.go.set()
        assert (result, await late) == ("miss", "value")
        assert (slow.begun, slow.cancelled) == (2, 1)
        result, answer = cache.get_or_compute("key", slow)
        assert (result, await answer) == ("hit", "value")

    run(test)


@pytest.mark.filterwarnings("error")
def test_an_error_reaches_every_waiter_and_is_not_cached() -> None:
    async def test(cache: AnswerCache[str]) -> None:
        slow = Slow("error")
        waiting = [await begin(cache.get_or_compute("key", slow)[1]) for _ in range(2)]
        slow.go.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [str(end) for end in ends] == ["error", "error"]
        slow.value = "value"
        result, answer = cache.get_or_compute("key", slow)
        assert (result, await answer) == ("miss", "value")

    run(test)


def test_the_least_recently_used_are_evicted_first_and_what_is_too_large_is_not_cached() -> None:
    async def test(cache: AnswerCache[str]) -> None:
        async def ask(key: str, size: int) -> str:
            slow = Slow("x" * size)
            slow.go.set()
            result, answer = cache.get_or_compute(key, slow)
            await answer
            return result

        assert [await ask(key, 40) for key in ("one", "two", "one", "three")] == ["miss", "miss", "hit", "miss"]
        assert [await ask(key, 40) for key in ("one", "three", "two")] == ["hit", "hit", "miss"]
        assert [await ask("large", 101) for _ in range(2)] == ["miss", "miss"]
        assert [await ask(key, 40) for key in ("two", "three")] == ["hit", "hit"]

    run(test)


class Gated:
    """A task whose network waits while its gate is shut."""

    def __init__(self, task: catalogue.Task) -> None:
        self._task = task
        self.gate = threading.Event()
        self.gate.set()
        self.computed: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def predict(self, batch: list[Any]) -> list[Any]:
        assert self.gate.wait(60)
        self.computed.append(len(batch))
        return self._task.predict(batch)


class Serving:
    """A worker's endpoint under uvicorn on a free port of loopback."""

    def __init__(self, task: catalogue.Task, answer_cache: int) -> None:
        self.task = Gated(task)
        self.metrics = WorkerMetrics("classify", "one")
        settings = Settings(answer_cache_mib=answer_cache, max_batch=1)
        self.endpoint = Endpoint("classify", self.task, settings, self.metrics)

    def __enter__(self) -> "Serving":
        self._server = uvicorn.Server(uvicorn.Config(self.endpoint, log_level="warning"))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._socket.getsockname()[1]}", timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self.endpoint.close()

    def ask(self, data: bytes = COFFEE, **parameters: str) -> httpx.Response:
        return self.client.post("/", content=data, params=parameters)

    def count(self, name: str) -> dict[str, float]:
        """Return a metric's values, by the result of the lookup if it has that label."""
        families = text_string_to_metric_families(self.metrics.page())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {sample.labels.get("result", ""): sample.value for sample in samples}


@pytest.fixture(scope="module")
def classify() -> catalogue.Task:
    return catalogue.load("classify")


@pytest.fixture
def serving(classify: catalogue.Task) -> Iterator[Serving]:
    with Serving(classify, answer_cache=1) as serving:
        yield serving


def status(response: httpx.Response) -> str:
    assert response.status_code == 200
    return response.headers["cache-status"]


def test_without_the_setting_every_image_is_computed(classify: catalogue.Task) -> None:
    with Serving(classify, answer_cache=0) as serving:
        answers = [serving.ask() for _ in range(2)]
        assert serving.task.computed == [1, 1]
    assert answers[0].content == answers[1].content
    assert "cache-status" not in answers[1].headers
    assert "inference;dur" in answers[1].headers["server-timing"]


def test_a_repeated_image_gets_the_same_answer_and_a_header_that_says_it_was_not_computed(serving: Serving) -> None:
    first, again = serving.ask(), serving.ask()
    assert (status(first), status(again)) == (STORED, HIT)
    assert first.content == again.content
    assert again.json()["predictions"][0]["label"] == "espresso"
    assert "inference;dur" in first.headers["server-timing"]
    assert re.fullmatch(r"total;dur=[\d.]+", again.headers["server-timing"])
    assert serving.task.computed == [1]


def test_other_options_formats_and_images_are_cached_separately(serving: Serving) -> None:
    assert status(serving.ask()) == STORED
    assert status(serving.ask(top_k="1")) == STORED
    assert status(serving.ask(CHELSEA)) == STORED
    drawn = [serving.client.post("/", content=COFFEE, headers={"Accept": "image/jpeg"}) for _ in range(2)]
    assert [status(one) for one in drawn] == [STORED, HIT]
    assert {one.headers["content-type"] for one in drawn} == {"image/jpeg"}
    assert drawn[0].content == drawn[1].content
    # A default that is passed explicitly changes nothing.
    assert status(serving.ask(top_k="5")) == HIT
    assert len(serving.task.computed) == 4


def test_identical_images_in_flight_are_computed_once(serving: Serving) -> None:
    serving.task.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(serving.ask) for _ in range(5)]
        until(lambda: serving.count("foursight_answer_cache_total") == {"miss": 1, "shared": 4})
        serving.task.gate.set()
        answers = [one.result() for one in asked]
    assert sorted(status(one) for one in answers) == sorted([STORED, *[SHARED] * 4])
    assert len({one.content for one in answers}) == 1
    assert serving.task.computed == [1]
    assert serving.count("foursight_images_total") == {"": 1}


def test_each_image_of_a_body_is_looked_up_by_itself_and_errors_are_not_cached(serving: Serving) -> None:
    alone = serving.ask()
    files = [("image", data) for data in (COFFEE, b"no picture", CHELSEA)]
    bodies = [serving.client.post("/", files=files) for _ in range(2)]
    assert status(bodies[0]) == ", ".join([HIT, MISS, STORED])
    assert status(bodies[1]) == ", ".join([HIT, MISS, HIT])
    assert bodies[0].json() == bodies[1].json()
    results = bodies[0].json()["results"]
    assert results[0] == alone.json()
    assert results[1]["error"]["code"] == "not_an_image"
    refused = [serving.ask(b"no picture") for _ in range(2)]
    assert [one.status_code for one in refused] == [415, 415]
    assert serving.count("foursight_answer_cache_total") == {"miss": 6, "hit": 3}


def test_hanging_up_does_not_affect_other_waiters_and_the_last_one_ends_the_work(serving: Serving) -> None:
    """Serve cancels the call of a client that hangs up; httpx's in-process transport does the same."""
    task = serving.task

    async def test() -> tuple[list[str], list[int]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serving.endpoint), base_url="http://x") as client:

            async def ask(data: bytes) -> "asyncio.Task[httpx.Response]":
                before = sum(serving.count("foursight_answer_cache_total").values())
                asked = asyncio.create_task(client.post("/", content=data))
                while sum(serving.count("foursight_answer_cache_total").values()) == before:
                    await asyncio.sleep(0.01)
                return asked

            task.gate.clear()
            two, gone = [await ask(COFFEE) for _ in range(2)], [await ask(CHELSEA) for _ in range(2)]
            # The first image is in the network; the other is queued until its last waiter is cancelled.
            while not len(serving.endpoint.batcher):
                await asyncio.sleep(0.01)
            for asked in (two[0], *gone):
                asked.cancel()
            await asyncio.wait([two[0], *gone])
            task.gate.set()
            kept = await two[1]
            computed = list(task.computed)
            return [status(kept), status(await client.post("/", content=CHELSEA))], computed

    assert asyncio.run(test()) == ([SHARED, STORED], [1])
    assert serving.count("foursight_queue_images") == {"": 0}


def test_answers_of_a_replaced_model_are_not_reused_and_a_removed_model_is_released(
    classify: Any, serving: Serving, tmp_path: Path
) -> None:
    answers = []
    for seed in (1, 2):
        write_model(tmp_path / str(seed), classify.base, seed=seed)
        classify.install("mine", tmp_path / str(seed))
        answers += [serving.ask(model="mine"), serving.ask(model="mine")]
    assert [status(one) for one in answers] == [STORED, HIT, STORED, HIT]
    assert answers[0].content == answers[1].content != answers[2].content == answers[3].content
    model = weakref.ref(classify.find("mine"))
    classify.remove("mine")
    assert serving.ask(model="mine").json()["code"] == "unknown_model"

    # The compute thread still references its last batch.
    serving.ask(CHELSEA)

    def is_gone() -> bool:
        gc.collect()
        return model() is None

    until(is_gone)
