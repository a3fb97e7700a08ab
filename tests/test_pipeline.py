"""The pipeline: what it keeps in memory while an image waits, and what remains when one of several fails."""

import asyncio
import sys
import threading
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from foursight.models.errors import ImageError
from foursight.models.results import Card, Predictions
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import ClassifyOptions
from foursight.serving.batching import Batcher
from foursight.serving.decoding import ImagePool
from foursight.serving.endpoint import Endpoint
from foursight.serving.errors import ApiError
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.pipeline import EncodedImage, Pipeline, PixelImage, run_all
from foursight.serving.settings import Settings
from tests.photos import encoded, photo

CARD = Card("mean", "tiny", ("dark", "bright"), "8x8", "cpu", "float32", parameters=0, bytes=0)


class Brightness:
    """A task that labels an image dark or bright. It computes while `gate` is open, and fails on black images."""

    card = CARD
    options = ClassifyOptions
    short_side = 8

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()

    def resolve(self, options: ClassifyOptions) -> ResolvedRequest[Any, Any]:
        return ResolvedRequest(options, self)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> float:
        mean = float(np.asarray(image).mean())
        if mean == 0:
            raise ImageError("not_an_image", "The image is black.", "Send another one.")
        return mean

    def predict(self, batch: list[Any]) -> list[float]:
        self.started.set()
        assert self.gate.wait(60)
        return [mean for mean, _ in batch]

    def finish(self, output: float, request: Any) -> Predictions:
        index = int(output > 127)
        return Predictions(np.array([index]), (CARD.labels[index],), np.array([output / 255]))


def test_the_bytes_of_an_image_are_released_when_it_is_decoded() -> None:
    task = Brightness()
    batcher: Batcher[Any, Any] = Batcher(task.predict, 1)
    pipeline = Pipeline(task, 10**6, batcher, ImagePool(10))
    body = encoded(photo("coffee").resize((64, 48)))
    before = sys.getrefcount(body)

    async def test() -> None:
        request = task.resolve(ClassifyOptions())
        waiting = [
            asyncio.create_task(pipeline.render(EncodedImage(body), request, "application/json")) for _ in range(3)
        ]
        # The first image is in the network, and two wait for it.
        while not (task.started.is_set() and len(batcher) == 2):
            await asyncio.sleep(0.01)
        assert sys.getrefcount(body) == before
        assert pipeline.pixels_in_flight == 3 * 64 * 48
        task.gate.set()
        assert len({one.content for one in await asyncio.gather(*waiting)}) == 1
        assert pipeline.pixels_in_flight == 0

    asyncio.run(test())
    batcher.close()
    pipeline.close()


def test_of_coroutines_run_side_by_side_none_is_left_when_an_error_is_raised() -> None:
    ended = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append(name)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def test() -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            await run_all([wait("one"), fail(), wait("two")])
        assert sorted(ended) == ["one", "two"]

    asyncio.run(test())


def test_when_one_region_fails_the_others_have_ended_before_their_places_are_given_back() -> None:
    task = Brightness()
    endpoint = Endpoint("classify", task, Settings(max_batch=1), WorkerMetrics("classify", "one"))
    pixels = np.full((16, 16, 3), 200, np.uint8)
    pixels[:8, :8] = 0

    async def fetch() -> Any:
        return pixels

    async def test() -> int:
        answer = await endpoint.answer(fetch, ClassifyOptions(), [(8, 8, 16, 16), (8, 0, 16, 8), (0, 0, 8, 8)])
        assert isinstance(answer, ApiError)
        assert (answer.code, endpoint.admission.admitted) == ("not_an_image", 0)
        return len(asyncio.all_tasks()) - 1

    assert asyncio.run(test()) == 0
    task.gate.set()
    endpoint.close()


def test_after_a_fatal_error_requests_are_told_that_the_worker_restarts() -> None:
    class Broken(Brightness):
        def predict(self, batch: list[Any]) -> list[float]:
            raise RuntimeError("CUDA error: device-side assert triggered")

    endpoint = Endpoint("classify", Broken(), Settings(), WorkerMetrics("classify", "one"), lambda error: True)

    async def test() -> None:
        transport = httpx.ASGITransport(endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for _ in range(2):
                response = await client.post("/", content=encoded(photo("coffee")))
                assert (response.status_code, response.json()["code"]) == (503, "unavailable")
                assert response.headers["retry-after"] == "2"

    asyncio.run(test())
    assert not endpoint.batcher.alive
    endpoint.close()


def test_regions_of_pixels_are_answered_in_their_order() -> None:
    task = Brightness()
    task.gate.set()
    batcher: Batcher[Any, Any] = Batcher(task.predict, 4)
    pipeline = Pipeline(task, 10**6, batcher, ImagePool(10))
    images = [PixelImage(np.full((8, 8, 3), value, np.uint8)) for value in (250, 1)]
    request = task.resolve(ClassifyOptions())

    async def test() -> list[str]:
        answers = await run_all([pipeline.answer(image, request) for image in images])
        return [answer.content.predictions[0].label for answer in answers]

    assert asyncio.run(test()) == ["bright", "dark"]
    batcher.close()
    pipeline.close()
