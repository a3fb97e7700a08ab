"""A task's HTTP endpoint, in its worker: the ASGI application, and the same answers for `analyze`.

    request --> read the body --> admission --> answer cache --> pipeline: decode, predict, encode --> response

With the cache on, images that were answered recently or are in flight skip the pipeline.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

from starlette import requests
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from foursight.models.catalogue import Task
from foursight.models.region import Region
from foursight.models.tasks import tiles
from foursight.schema import Answer
from foursight.schema.options import Options
from foursight.serving import huggingface, query, responses, upload
from foursight.serving.admission import AdmissionControl
from foursight.serving.batching import Batcher, BatcherFailed
from foursight.serving.cached_pipeline import CachedAnswer, CachedPipeline
from foursight.serving.deadline import Deadline, read_deadline
from foursight.serving.decoding import ImagePool
from foursight.serving.encoding import Format, to_json
from foursight.serving.errors import ApiError, as_api_error, method_not_allowed, unavailable
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.pipeline import EncodedImage, Pipeline, PixelImage, Pixels, Request, TimedAnswer, run_all
from foursight.serving.request_log import RequestRecord, start_record
from foursight.serving.settings import Settings
from foursight.serving.traces import Traces

# A batch that takes longer than STUCK_S and STUCK_FACTOR times its usual time will not end.
STUCK_S = 30.0
STUCK_FACTOR = 3
# The answer, or the error, for each image of a request.
Answers = list[CachedAnswer | ApiError]


class Endpoint:
    """Serves POST on the task's path; every other request is an error.

    `is_fatal` returns whether the task can no longer compute after an error; `batcher.alive` is then false.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        settings: Settings,
        metrics: WorkerMetrics,
        is_fatal: Callable[[BaseException], bool] = lambda error: False,
        traces: Traces | None = None,
    ) -> None:
        self._name = name
        self._task = task
        self._max_bytes = settings.max_upload_bytes
        self._max_batch = settings.max_batch
        self._timeout_s = settings.request_timeout_s
        self._metrics = metrics
        self._traces = traces
        self._uploads = upload.UploadBudget(settings.max_uploads_mib * 2**20)
        metrics.upload_bytes.set_function(lambda: self._uploads.held)
        self.admission = AdmissionControl(name, settings.max_queue + settings.max_batch, metrics)
        self.batcher: Batcher[Any, Any] = Batcher(task.predict, settings.max_batch, self._observe, is_fatal)
        pool = ImagePool(settings.decode_timeout_s)
        self._pipeline = Pipeline(task, settings.max_image_pixels, self.batcher, pool, metrics.passed)
        metrics.pixels.set_function(lambda: self._pipeline.pixels_in_flight)
        self._cached = CachedPipeline(self._pipeline, settings.answer_cache_mib, metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] == "lifespan":
            await _handle_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            start = perf_counter()
            http = requests.Request(scope, receive)
            record = start_record(self._name, scope, self._traces)
            response = await self._respond(http, start, record)
            seconds = perf_counter() - start
            self._metrics.answered(response.status_code, seconds, record.code)
            await response(scope, receive, send)
            if self._traces:
                below = self._path_below(http)
                route = f"/v1/{self._name}{below}" if below in ("", huggingface.PATH) else None
                record.trace(self._traces, scope, route, response.status_code, start, perf_counter())
            record.log(response.status_code, seconds)

    @property
    def is_stuck(self) -> bool:
        """Whether the engine does not return from a batch."""
        usual_s = self.admission.seconds_per_image * self._max_batch
        return self.batcher.computing_s > STUCK_S + STUCK_FACTOR * usual_s

    def close(self) -> None:
        """End the threads; work in the queue is cancelled, and spans are sent."""
        self.batcher.close()
        self._pipeline.close()
        if self._traces:
            self._traces.close()

    async def answer(
        self, fetch: Callable[[], Awaitable[Pixels]], options: Options, regions: Sequence[Region] | None = None
    ) -> list[TimedAnswer[Answer]] | ApiError:
        """Return the answers for a decoded image, uint8 [H, W, 3], or for regions of it.

        Regions are (left, top, right, bottom) in pixels.

        `fetch` is called once the image is admitted.
        """
        start = perf_counter()
        status = 200
        try:
            request = self._task.resolve(options)
            with self.admission.reserve(self._places(len(regions) if regions else 1, request)):
                images = _cut(await fetch(), regions)
                return await run_all([self._pipeline.answer(image, request) for image in images])
        except Exception as error:
            api_error = self._as_api_error(error)
            status = api_error.status
            return api_error
        finally:
            self._metrics.answered(status, perf_counter() - start)

    async def _respond(self, http: requests.Request, start: float, record: RequestRecord) -> Response:
        try:
            deadline = read_deadline(http, start, self._timeout_s)
            async with deadline.enforced():
                if self._path_below(http) == huggingface.PATH:
                    answers, media_type = await self._answer_huggingface(http, deadline, record)
                else:
                    answers, media_type = await self._answer_request(http, deadline, record)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            api_error = self._as_api_error(error)
            record.code = api_error.code
            return responses.error_response(api_error)
        record.answered(answers)
        return self._to_response(answers, media_type, perf_counter() - start)

    async def _answer_request(
        self, http: requests.Request, deadline: Deadline, record: RequestRecord
    ) -> tuple[Answers, Format]:
        request, media_type = self._read_head(http)
        record.model = request.model.card.name
        self.admission.check(1, deadline.remaining_s)
        with self._uploads.upload() as count:
            images = [EncodedImage(body) for body in await upload.read_images(http, self._max_bytes, count)]
            record.images, record.bytes = len(images), sum(image.size for image in images)
            if len(images) > 1 and media_type != "application/json":
                raise ApiError(
                    "not_acceptable",
                    f"{media_type} is available for one image, not for {len(images)}.",
                    "Accept application/json, or send one image.",
                )
            with self.admission.reserve(self._places(len(images), request), deadline.remaining_s):
                return await self._answer_all(images, request, media_type), media_type

    async def _answer_huggingface(
        self, http: requests.Request, deadline: Deadline, record: RequestRecord
    ) -> tuple[Answers, Format]:
        _require_post(http)
        self.admission.check(1, deadline.remaining_s)
        with self._uploads.upload() as count:
            content, parameters = await huggingface.read(http, self._max_bytes, count)
            options = query.to_options(query.parse_query(http.url.query) | parameters, self._task.options)
            request, image = self._task.resolve(options), EncodedImage(content)
            del content
            record.model, record.images, record.bytes = request.model.card.name, 1, image.size
            with self.admission.reserve(self._places(1, request), deadline.remaining_s):
                return [await self._cached.render(image, request, "huggingface")], "huggingface"

    def _path_below(self, http: requests.Request) -> str:
        """Return what follows the task's path, without a slash at its end."""
        return http.url.path.removeprefix(http.scope["root_path"]).rstrip("/")

    def _read_head(self, http: requests.Request) -> tuple[Request, Format]:
        """Return the request and the response format, from everything before the body."""
        if self._path_below(http):
            raise ApiError("not_found", f"The path {http.url.path} does not exist.", "GET /docs lists all paths.")
        _require_post(http)
        options = query.parse_options(http.url.query, self._task.options)
        return self._task.resolve(options), responses.negotiate(http.headers.get("accept", ""))

    def _places(self, images: int, request: Request) -> int:
        """Return the places in the queue for images; each tile takes one, but an image never more than there are."""
        return images * min(tiles.count_views(getattr(request.options, "tiles", 1)), self.admission.capacity)

    async def _answer_all(self, images: list[EncodedImage], request: Request, media_type: Format) -> Answers:
        """Answer each image. If one of several fails, the others are still answered; a lone image's error is raised."""
        if len(images) == 1:
            return [await self._cached.render(images[0], request, media_type)]

        async def answer(image: EncodedImage) -> CachedAnswer | ApiError:
            try:
                return await self._cached.render(image, request, media_type)
            except Exception as error:
                return self._as_api_error(error)

        return await run_all([answer(image) for image in images])

    def _to_response(self, answers: Answers, media_type: Format, total_s: float) -> Response:
        contents = [
            to_json(responses.failure(one)) if isinstance(one, ApiError) else one.answer.content for one in answers
        ]
        if media_type in ("application/json", "huggingface"):
            response = responses.json_response(contents)
        else:
            response = Response(contents[0], media_type=media_type)
        response.headers["Server-Timing"] = responses.server_timing(answers, total_s)
        response.headers["Vary"] = "Accept"
        if self._cached.has_cache:
            response.headers["Cache-Status"] = ", ".join(map(responses.cache_status, answers))
        return response

    def _as_api_error(self, error: Exception) -> ApiError:
        return unavailable(self._name) if isinstance(error, BatcherFailed) else as_api_error(error)

    def _observe(self, batch_size: int, seconds: float) -> None:
        self._metrics.computed(batch_size, seconds)
        self.admission.observe(seconds / batch_size)


def _require_post(http: requests.Request) -> None:
    if http.method != "POST":
        raise method_not_allowed(http.method, http.url.path, "POST")


def _cut(pixels: Pixels, regions: Sequence[Region] | None) -> list[PixelImage]:
    if regions is None:
        return [PixelImage(pixels)]
    return [PixelImage(pixels[y1:y2, x1:x2]) for x1, y1, x2, y2 in regions]


async def _handle_lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
