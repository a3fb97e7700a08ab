"""The steps from an image to its answer. The event loop only passes work on: it never decodes and never computes.

    image --> [thread pool: decode] --> [queue] --> [compute thread: predict] --> [thread pool: encode] --> answer

The pool decodes images as they arrive, while the batch before them is in the compute thread.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models import catalogue
from foursight.models import image as images
from foursight.models.catalogue import Task
from foursight.models.decode_guard import Guard, LargeImage
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema import Answer
from foursight.serving import encoding, huggingface
from foursight.serving.batching import Batcher, Timing
from foursight.serving.decoding import ImagePool
from foursight.serving.encoding import Format

Value = TypeVar("Value")
Content = TypeVar("Content")
Pixels = NDArray[np.uint8]
Request = ResolvedRequest[Any, Any]


@dataclass(frozen=True)
class Decoded:
    """An image that waits for the network.

    `inputs` are the network's: one or, with tiles, several. `size` is the (width, height) of the original, which is
    kept, as `canvas`, only if the answer is drawn on it.
    """

    inputs: list[Any]
    size: tuple[int, int]
    canvas: Image.Image | None = None


@dataclass(frozen=True)
class Predicted:
    """The network's outputs for an image, and what else encoding needs."""

    outputs: list[Any]
    request: Request
    size: tuple[int, int]
    canvas: Image.Image | None


@dataclass(frozen=True)
class TimedAnswer(Generic[Content]):
    """The answer for one image, as an object or as the bytes to send, the time of each step, and the image's pixels.

    `start`, of `perf_counter`, is when decoding was asked for. The steps follow one another: decode, those of `timing`,
    and encode, each with its wait.
    """

    content: Content
    start: float
    decode_s: float
    timing: Timing
    encode_s: float
    pixels: int


class ImageSource(Protocol):
    """An incoming image. `decode` consumes it, so that encoded bytes or pixels are not held while it waits."""

    def decode(self, task: Task, request: Request, max_pixels: int, keep: bool, guard: Guard) -> Decoded:
        """Decode and prepare the image; `keep` keeps it for drawing.

        Raises ImageError, and the guard's errors. After LargeImage it may be called again.
        """


class EncodedImage:
    """An uploaded image: the bytes of a JPEG, PNG, ..."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self._content)

    def digest(self) -> bytes:
        """Return the SHA-256 of the bytes."""
        return hashlib.sha256(self._content).digest()

    def decode(self, task: Task, request: Request, max_pixels: int, keep: bool, guard: Guard) -> Decoded:
        """Decode and prepare the image; without `keep`, a large JPEG is decoded at a reduced size."""
        content = self._content
        self.discard()
        try:
            if keep:
                image = images.decode(content, max_pixels, guard)
                return Decoded(catalogue.prepare(task, image, request), image.size, image)
            short_side = task.short_side * getattr(request.options, "tiles", 1)
            image, size = images.decode_for(content, short_side, max_pixels, guard)
        except LargeImage:
            self._content = content
            raise
        return Decoded(catalogue.prepare(task, image, request, size), size)

    def discard(self) -> None:
        """Release the bytes."""
        self._content = b""


class PixelImage:
    """A decoded image: uint8 [H, W, 3]."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = [pixels]

    def decode(self, task: Task, request: Request, max_pixels: int, keep: bool, guard: Guard) -> Decoded:
        """Prepare the image."""
        image = Image.fromarray(self._pixels.pop())
        return Decoded(catalogue.prepare(task, image, request), image.size, image if keep else None)


class Pipeline:
    """Runs images through a task; `pool` decodes and encodes, `batcher` computes.

    `pixels_in_flight` counts the pixels of images that are decoded and not yet answered.

    `observe` is called for each image, with its model's name and the seconds of decoding and in the queue.
    """

    def __init__(
        self,
        task: Task,
        max_pixels: int,
        batcher: Batcher[Any, Any],
        pool: ImagePool,
        observe: Callable[[str, float, float], None] = lambda model, decode_s, queue_s: None,
    ) -> None:
        self._task = task
        self._observe = observe
        self._max_pixels = max_pixels
        self._batcher = batcher
        self._pool = pool
        self.pixels_in_flight = 0

    async def answer(self, image: ImageSource, request: Request) -> TimedAnswer[Answer]:
        """Return the answer for one image as an object.

        Raises ImageError, and BatcherFailed if nothing more can be computed.
        """
        return await self._run(image, request, self._to_answer)

    async def render(self, image: ImageSource, request: Request, media_type: Format) -> TimedAnswer[bytes]:
        """Return the answer for one image as JSON, or drawn on the image. Raises as `answer` does."""
        if media_type == "application/json":
            return await self._run(image, request, self._to_json)
        if media_type == "huggingface":
            return await self._run(image, request, self._to_huggingface)
        return await self._run(image, request, partial(self._to_picture, media_type), keep=True)

    def close(self) -> None:
        """End the threads of the pool; work in its queue is cancelled."""
        self._pool.close()

    async def _run(
        self, image: ImageSource, request: Request, encode: Callable[[Predicted], Content], keep: bool = False
    ) -> TimedAnswer[Content]:
        start = perf_counter()
        decoded = await self._pool.decode(partial(image.decode, self._task, request, self._max_pixels, keep))
        decode_s = perf_counter() - start
        pixels = decoded.size[0] * decoded.size[1]
        self.pixels_in_flight += pixels
        try:
            outputs, timing = await self._compute(decoded.inputs, request)
            predicted = Predicted(outputs, request, decoded.size, decoded.canvas)
            content = await self._pool.run(partial(encode, predicted))
        finally:
            self.pixels_in_flight -= pixels
        self._observe(request.model.card.name, decode_s, timing.queue_s)
        encode_s = perf_counter() - start - decode_s - timing.queue_s - timing.inference_s
        return TimedAnswer(content, start, decode_s, timing, encode_s, pixels)

    async def _compute(self, inputs: list[Any], request: Request) -> tuple[list[Any], Timing]:
        """Return the outputs for the inputs of one image, each of which is queued on its own."""
        if len(inputs) == 1:
            output, timing = await self._batcher.submit((inputs[0], request))
            return [output], timing
        start = perf_counter()
        results = await run_all([self._batcher.submit((one, request)) for one in inputs])
        queue_s = min(timing.queue_s for _, timing in results)
        largest = max(timing.batch_size for _, timing in results)
        return [output for output, _ in results], Timing(queue_s, perf_counter() - start - queue_s, largest)

    def _to_answer(self, predicted: Predicted) -> Answer:
        output = catalogue.join(self._task, predicted.outputs, predicted.request)
        predictions = self._task.finish(output, predicted.request)
        mask_format = "rle" if predicted.canvas else getattr(predicted.request.options, "mask_format", "none")
        return encoding.to_answer(predicted.request.model.card.name, predicted.size, predictions, mask_format)

    def _to_json(self, predicted: Predicted) -> bytes:
        return encoding.to_json(self._to_answer(predicted))

    def _to_huggingface(self, predicted: Predicted) -> bytes:
        return huggingface.to_json(self._to_answer(predicted))

    def _to_picture(self, media_type: Format, predicted: Predicted) -> bytes:
        assert predicted.canvas is not None
        return encoding.to_picture(predicted.canvas, self._to_answer(predicted), media_type)


async def run_all(work: Iterable[Coroutine[Any, Any, Value]]) -> list[Value]:
    """Run coroutines concurrently. If one fails, the others are cancelled and have ended before its error is raised."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
