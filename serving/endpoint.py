"""A task's photos inside a worker: decode, queue, compute, encode; the event loop only hands on.

    request --> bytes --> [pool: decode, prepare] --> [queue] --> [compute thread: predict]
                              response <-- [pool: finish, encode or draw] <--'

The pool decodes photos as they arrive, while the batch before them is in the compute thread. Photos come over HTTP
(this is the ASGI application of the worker), or decoded, from `analyze` (`Endpoint.answer`), and go the same way. With
an answer cache, a photo over HTTP that was answered of late, or is being answered, goes no way at all.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from foursight.models import image as images
from foursight.models.catalogue import Task
from foursight.models.engines import environment
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema import Answer
from foursight.schema.options import Options
from foursight.serving import responses, upload
from foursight.serving.admission import Places
from foursight.serving.answer_cache import Repeats, Way
from foursight.serving.batching import Batcher, Timing
from foursight.serving.errors import STATUS, ApiError, as_api_error
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.responses import Format
from foursight.serving.settings import Settings

Value = TypeVar("Value")
Content = TypeVar("Content")
Resolved = ResolvedRequest[Any, Any]
Pixels = NDArray[np.uint8]
Region = tuple[int, int, int, int]


# What an answer in the cache takes besides its own bytes (key, times, a place in a dict), rounded up from 650.
ENTRY_BYTES = 1024


@dataclass(frozen=True)
class Answered(Generic[Content]):
    """One photo's answer, as an object or as the bytes that are sent, and where its time went."""

    answer: Content
    decode: float
    timing: Timing


@dataclass(frozen=True)
class Reply:
    """One photo's part of a response, and how it was come by; `way` is None where there is no cache."""

    answered: Answered[bytes]
    way: Way | None = None


class Endpoint:
    """POST on the task's own path. Everything else is refused."""

    def __init__(self, name: str, task: Task, settings: Settings, metrics: WorkerMetrics) -> None:
        self._task = task
        self._settings = settings
        self._metrics = metrics
        self._places = Places(name, settings.max_queue + settings.max_batch, metrics)
        self._pool = ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="photo")
        self.batcher: Batcher[Any, Any] = Batcher(task.predict, settings.max_batch, metrics.computed)
        self._repeats: Repeats[Answered[bytes]] | None = (
            Repeats(settings.answer_cache_mib * 2**20, _weight) if settings.answer_cache_mib else None
        )

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

    def admit(self, options: Options) -> ApiError | None:
        """Why a photo with these options would not be answered now; None where it would."""
        try:
            self._task.resolve(options)
            with self._places.take(1):
                return None
        except Exception as error:
            return as_api_error(error)

    async def answer(
        self, fetch: Callable[[], Awaitable[Pixels]], options: Options, regions: Sequence[Region] | None = None
    ) -> list[Answered[Answer]] | ApiError:
        """Answer for a decoded photo, uint8 [H, W, 3], or for regions of it, (left, top, right, bottom) in its pixels.

        `fetch` gives the photo once there is a place for it.
        """
        start = perf_counter()
        status = 200
        try:
            request = self._task.resolve(options)
            with self._places.take(len(regions) if regions else 1):
                pixels = await fetch()
                parts = [pixels] if regions is None else [pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in regions]
                del pixels
                photos = [self._answer(part, request, False, self._to_answer) for part in parts]
                parts.clear()
                return await asyncio.gather(*photos)
        except Exception as error:
            refusal = as_api_error(error)
            status = STATUS[refusal.code]
            return refusal
        finally:
            self._metrics.answered(status, perf_counter() - start)

    async def _respond(self, request: Request, start: float) -> Response:
        try:
            resolved, form = self._read_head(request)
            # A place is taken before the body is read: what cannot be answered soon is refused before it costs memory.
            with self._places.take(1):
                bodies = await upload.read_images(request, self._settings.max_upload_bytes)
                if len(bodies) > 1 and form != "application/json":
                    raise ApiError(
                        "not_acceptable", "A drawn picture answers one photo.", "Ask for JSON, or send one photo."
                    )
                with self._places.take(len(bodies) - 1):
                    return await self._answer_all(bodies, resolved, form, start)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return responses.error_response(as_api_error(error))

    def _read_head(self, request: Request) -> tuple[Resolved, Format]:
        """What is asked for, before the body is looked at."""
        if request.url.path.removeprefix(request.scope["root_path"]) not in ("", "/"):
            raise ApiError("not_found", f"There is no {request.url.path}.", "GET /docs lists all paths.")
        if request.method != "POST":
            detail = f"{request.method} is not possible here."
            raise ApiError("method_not_allowed", detail, "POST a photo.", {"Allow": "POST"})
        options = upload.parse_options(request.url.query, self._task.options)
        return self._task.resolve(options), responses.negotiate(request.headers.get("accept", ""))

    async def _answer_all(self, bodies: list[bytes], resolved: Resolved, form: Format, start: float) -> Response:
        # A photo of several that fails leaves the others their answers; a lone one fails the request.
        several = len(bodies) > 1
        photos = [self._reply(body, resolved, form) for body in bodies]
        bodies.clear()
        replies = await asyncio.gather(*photos, return_exceptions=several)
        contents = [_content(reply) for reply in replies]
        if form == "application/json":
            response = responses.json_response(contents)
        else:
            response = Response(contents[0], media_type=form)
        computed = [reply.answered for reply in replies if isinstance(reply, Reply) and reply.way in (None, "miss")]
        response.headers["Server-Timing"] = _server_timing(computed, perf_counter() - start)
        response.headers["Vary"] = "Accept"
        if self._repeats:
            response.headers["Cache-Status"] = ", ".join(_cache_status(reply, self._repeats) for reply in replies)
        return response

    async def _reply(self, photo: bytes, resolved: Resolved, form: Format) -> Reply:
        draw = form != "application/json"
        compute = partial(self._answer, resolved=resolved, draw=draw, encode=partial(self._to_bytes, form))
        if self._repeats is None:
            answer = compute(photo)
            photo = b""
            return Reply(await answer)
        # In a thread, and none that decodes: 12 megapixels are hashed in milliseconds, and a hit should not wait.
        digest = (await asyncio.to_thread(hashlib.sha256, photo)).digest()
        way, kept = self._repeats.ask((digest, form, resolved.cache_key), partial(compute, photo))
        photo = b""
        self._metrics.repeats(way)
        return Reply(await kept, way)

    async def _answer(
        self,
        photo: bytes | Pixels,
        resolved: Resolved,
        draw: bool,
        encode: Callable[[Any, Resolved, tuple[int, int], Image.Image | None], Content],
    ) -> Answered[Content]:
        start = perf_counter()
        # While it waits, a photo is there once only: as the network's input, unless it is to be drawn on.
        canvas, size, prepared = await self._in_pool(partial(self._decode, photo, draw))
        photo = b""
        decoded = perf_counter()
        output, timing = await self.batcher.submit((prepared, resolved))
        answer = await self._in_pool(partial(encode, output, resolved, size, canvas))
        return Answered(answer, decoded - start, timing)

    def _decode(self, photo: bytes | Pixels, draw: bool) -> tuple[Image.Image | None, tuple[int, int], Any]:
        """The photo, where it is to be drawn on, its (width, height), and the network's input."""
        if isinstance(photo, bytes) and not draw:
            image, size = images.decode_for(photo, self._task.short_side, self._settings.max_image_pixels)
            return None, size, self._task.prepare(image, size)
        image = (
            images.decode(photo, self._settings.max_image_pixels)
            if isinstance(photo, bytes)
            else Image.fromarray(photo)
        )
        return image if draw else None, image.size, self._task.prepare(image)

    def _to_answer(self, output: Any, resolved: Resolved, size: tuple[int, int], canvas: Image.Image | None) -> Answer:
        found = self._task.finish(output, resolved)
        mask_format = "rle" if canvas else getattr(resolved.options, "mask_format", "none")
        return responses.to_answer(resolved.model.card.name, size, found, mask_format)

    def _to_bytes(
        self, form: Format, output: Any, resolved: Resolved, size: tuple[int, int], canvas: Image.Image | None
    ) -> bytes:
        answer = self._to_answer(output, resolved, size, canvas)
        return responses.to_picture(canvas, answer, form) if canvas else responses.to_json(answer)

    async def _in_pool(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _weight(answered: Answered[bytes]) -> int:
    return len(answered.answer) + ENTRY_BYTES


def _content(reply: Reply | BaseException) -> bytes:
    if isinstance(reply, Reply):
        return reply.answered.answer
    if isinstance(reply, Exception):
        return responses.to_json(responses.failure(as_api_error(reply)))
    raise reply


def _cache_status(reply: Reply | BaseException, repeats: Repeats[Answered[bytes]]) -> str:
    """One photo's member of the Cache-Status header (RFC 9211)."""
    if not isinstance(reply, Reply):
        return "foursight; fwd=miss"
    if reply.way == "miss":
        return "foursight; fwd=miss" + ("; stored" if repeats.has_room_for(reply.answered) else "")
    return "foursight; hit" if reply.way == "hit" else "foursight; fwd=miss; collapsed"


def _server_timing(computed: list[Answered[bytes]], total: float) -> str:
    """The Server-Timing header (W3C), in milliseconds; of several photos the longest time of each step.

    Only `total` where all answers were there already.
    """
    steps = [f"total;dur={1000 * total:.1f}"]
    if computed:
        slowest = {
            "decode": max(one.decode for one in computed),
            "queue": max(one.timing.queue for one in computed),
            "inference": max(one.timing.inference for one in computed),
        }
        steps = [f"{name};dur={1000 * seconds:.1f}" for name, seconds in slowest.items()] + steps
        steps.append(f'batch;desc="{max(one.timing.batch for one in computed)}"')
    return ", ".join(steps)


async def _live(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
