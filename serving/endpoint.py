"""A task over HTTP: the ASGI application inside a worker. Decode, queue, compute, encode; the event loop only hands on.

    request --> bytes --> [pool: decode, prepare] --> [queue] --> [compute thread: predict]
                              response <-- [pool: finish, encode or draw] <--'

The pool decodes photos as they arrive, while the batch before them is in the compute thread.
"""

import asyncio
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from PIL import Image
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from foursight.models import image as images
from foursight.models.catalogue import Task
from foursight.models.options import Options
from foursight.serving import answers, upload
from foursight.serving.answers import Format
from foursight.serving.batching import Batcher, Timing
from foursight.serving.errors import Refusal, refusal_of
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.settings import Settings
from foursight.wire import Answer, Failure

Value = TypeVar("Value")


@dataclass(frozen=True)
class Answered:
    """One photo's answer, its picture where one was asked for, and where its time went."""

    answer: Answer
    picture: bytes | None
    decode: float
    timing: Timing


class Endpoint:
    """POST on the task's own path. Everything else is refused."""

    def __init__(self, name: str, task: Task, settings: Settings, metrics: WorkerMetrics) -> None:
        self._name = name
        self._task = task
        self._settings = settings
        self._metrics = metrics
        self._places = settings.max_queue + settings.max_batch
        self._taken = 0
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="photo")
        self.batcher: Batcher[Any, Any] = Batcher(task.predict, settings.max_batch, metrics.computed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            start = perf_counter()
            response = await self._respond(Request(scope, receive), start)
            self._metrics.answered(response.status_code, perf_counter() - start)
            await response(scope, receive, send)

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        self.batcher.close()
        self._pool.shutdown(cancel_futures=True)

    async def _respond(self, request: Request, start: float) -> Response:
        taken = 0
        try:
            options, form = self._read_head(request)
            # A place is taken before the body is read: what cannot be answered soon is refused before it costs memory.
            self._take(1)
            taken = 1
            bodies = await upload.read_images(request, self._settings.max_bytes)
            if len(bodies) > 1 and form != "application/json":
                raise Refusal(
                    "not_acceptable", "A drawn picture answers one photo.", "Ask for JSON, or send one photo."
                )
            self._take(len(bodies) - 1)
            taken = len(bodies)
            return await self._answer_all(bodies, options, form, start)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return answers.refusal_response(refusal_of(error))
        finally:
            self._take(-taken)

    def _read_head(self, request: Request) -> tuple[Options, Format]:
        """What is asked for, before the body is looked at."""
        if request.url.path.removeprefix(request.scope["root_path"]) not in ("", "/"):
            raise Refusal("not_found", f"There is no {request.url.path}.", "GET /docs lists all paths.")
        if request.method != "POST":
            detail = f"{request.method} is not possible here."
            raise Refusal("method_not_allowed", detail, "POST a photo.", {"Allow": "POST"})
        options = upload.parse_options(request.url.query, self._task.options)
        self._task.check(options)
        return options, answers.negotiate(request.headers.get("accept", ""))

    def _take(self, count: int) -> None:
        """Take so many places, or give them back. Raises Refusal (overloaded)."""
        if count > 0 and self._taken + count > self._places:
            raise Refusal(
                "overloaded",
                f"{self._taken} photos wait for the task {self._name!r} already; there is room for {self._places}.",
                "Try again after the time that Retry-After says.",
                {"Retry-After": str(max(1, math.ceil(self._taken * self._metrics.seconds_per_photo)))},
            )
        self._taken += count
        self._metrics.waiting.set(self._taken)

    async def _answer_all(self, bodies: list[bytes], options: Options, form: Format, start: float) -> Response:
        # A photo of several that fails leaves the others their answers; a lone one fails the request.
        several = len(bodies) > 1
        photos = [self._answer(body, options, form) for body in bodies]
        bodies.clear()
        results = await asyncio.gather(*photos, return_exceptions=several)
        good = [result for result in results if isinstance(result, Answered)]
        if good and good[0].picture is not None:
            response = Response(good[0].picture, media_type=form)
        else:
            response = answers.json_response([_result(result) for result in results])
        response.headers["Server-Timing"] = _server_timing(good, perf_counter() - start)
        response.headers["Vary"] = "Accept"
        return response

    async def _answer(self, body: bytes, options: Options, form: Format) -> Answered:
        start = perf_counter()
        image, prepared = await self._in_pool(partial(self._decode, body))
        # While it waits, a photo is there once only: as the network's input, unless it is to be drawn on.
        size, body = image.size, b""
        canvas = None if form == "application/json" else image
        del image
        decoded = perf_counter()
        output, timing = await self.batcher.submit((prepared, options))
        answer, picture = await self._in_pool(partial(self._encode, output, options, size, canvas, form))
        return Answered(answer, picture, decoded - start, timing)

    def _decode(self, body: bytes) -> tuple[Image.Image, Any]:
        image = images.decode(body, self._settings.max_pixels)
        return image, self._task.prepare(image)

    def _encode(
        self, output: Any, options: Options, size: tuple[int, int], canvas: Image.Image | None, form: Format
    ) -> tuple[Answer, bytes | None]:
        found = self._task.finish(output, options)
        mask_format = "rle" if canvas else getattr(options, "mask_format", "none")
        name = getattr(options, "model", None) or self._task.card.name
        answer = answers.to_answer(name, size, found, mask_format)
        return answer, answers.to_picture(canvas, answer, form) if canvas else None

    async def _in_pool(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _result(result: Answered | BaseException) -> Answer | Failure:
    if isinstance(result, Answered):
        return result.answer
    if isinstance(result, Exception):
        return answers.failure(refusal_of(result))
    raise result


def _server_timing(good: list[Answered], total: float) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several photos the longest time of each step."""
    steps = [f"total;dur={1000 * total:.1f}"]
    if good:
        slowest = {
            "decode": max(one.decode for one in good),
            "queue": max(one.timing.queue for one in good),
            "inference": max(one.timing.inference for one in good),
        }
        steps = [f"{name};dur={1000 * seconds:.1f}" for name, seconds in slowest.items()] + steps
        steps.append(f'batch;desc="{max(one.timing.batch for one in good)}"')
    return ", ".join(steps)


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
