"""POST /v1/analyze: several tasks for one upload, side by side, and the classification of each object found.

    request --> bytes --> [pool: decode] --> shared memory --> worker: classify  --> one answer, a part for each task
                                                         '--> worker: detect ... --'
                                    then=classify: objects' boxes --> worker: classify (cuts them out, one batch)

The image is decoded once, here. Its pixels go to Ray's object store, which all workers of a machine read without
copying; messages between processes carry only a reference. Each worker admits or refuses it by its own rules
(serving/endpoint.py), so a task that is full or down does not affect the others.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter

import numpy as np
import ray
from ray import ObjectRef
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from foursight.models import image as images
from foursight.models.decode_guard import Guard
from foursight.models.region import Region, region_of
from foursight.schema import Analysis, Answer, ImageSize, Prediction
from foursight.schema.analyze import MAX_OBJECTS
from foursight.schema.options import ClassifyOptions, Options
from foursight.serving import responses, upload
from foursight.serving.admission import AdmissionControl
from foursight.serving.analyze_request import AnalyzeRequest, read_query
from foursight.serving.deadline import Deadline, read_deadline
from foursight.serving.decoding import ImagePool
from foursight.serving.errors import ApiError, as_api_error
from foursight.serving.metrics import RequestMetrics
from foursight.serving.pipeline import TimedAnswer, run_all
from foursight.serving.request_log import RequestRecord, steps_of
from foursight.serving.settings import Settings
from foursight.serving.task_handles import TaskHandles
from foursight.serving.traces import Step


class Analyzer:
    """Answers POST /v1/analyze. `task_of` returns the task of a fine-tuned model."""

    def __init__(
        self,
        settings: Settings,
        metrics: RequestMetrics,
        handles: TaskHandles,
        task_of: Callable[[str], str | None],
    ) -> None:
        self._settings = settings
        self._task_of = task_of
        self._metrics = metrics
        self._admission = AdmissionControl("analyze", settings.max_queue + settings.max_batch, metrics)
        self._uploads = upload.UploadBudget(settings.max_uploads_mib * 2**20)
        self._pool = ImagePool(settings.decode_timeout_s)
        self._handles = handles

    async def answer(self, http: Request) -> Response:
        """Answer a request; errors are problem details."""
        start = perf_counter()
        record: RequestRecord = http.scope["record"]
        record.task = "analyze"
        try:
            response = await self._respond(http, start, record)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            api_error = as_api_error(error)
            record.code = api_error.code
            response = responses.error_response(api_error)
        self._metrics.answered(response.status_code, perf_counter() - start, record.code)
        return response

    async def _respond(self, http: Request, start: float, record: RequestRecord) -> Response:
        request = read_query(http.url.query, self._settings.tasks, self._task_of)
        responses.negotiate(http.headers.get("accept", ""), ("application/json",))
        deadline = read_deadline(http, start, self._settings.request_timeout_s)
        self._admission.check(1, deadline.remaining_s)
        with self._uploads.upload() as count:
            async with deadline.enforced():
                bodies = await upload.read_images(http, self._settings.max_upload_bytes, count)
            record.images, record.bytes = len(bodies), sum(map(len, bodies))
            if len(bodies) > 1:
                raise ApiError("too_many_images", f"The upload has {len(bodies)} images.", "Send one image.")
            with self._admission.reserve(1, deadline.remaining_s):
                admitted = perf_counter()
                body, seconds = await self._analyze(bodies.pop(), request, deadline, record)
                # Little's law: of `admitted` images that each take t seconds, one is ready every t / admitted.
                self._admission.observe((perf_counter() - admitted) / self._admission.admitted)
        seconds["total"] = perf_counter() - start
        timing = ", ".join(f"{step};dur={1000 * duration:.1f}" for step, duration in seconds.items())
        return Response(body, media_type="application/json", headers={"Server-Timing": timing})

    async def _analyze(
        self, content: bytes, request: AnalyzeRequest, deadline: Deadline, record: RequestRecord
    ) -> tuple[str, dict[str, float]]:
        """Return the answer as JSON, and the seconds that each step took."""
        start = perf_counter()
        seconds: dict[str, float] = {}

        def passed(step: str, begin: float, answers: Sequence[TimedAnswer[Answer]] | ApiError = ()) -> None:
            end = perf_counter()
            seconds[step] = end - begin
            if record.steps is not None:
                parts = [] if isinstance(answers, ApiError) else [part for one in answers for part in steps_of(one)]
                record.steps.append(Step(step, begin, end, steps=parts))

        async with deadline.enforced():
            image, size = await self._pool.decode(partial(self._decode, content))
        del content
        record.pixels = size[0] * size[1]
        passed("decode", start)

        async def ask(task: str, options: Options) -> Answer | ApiError:
            begin = perf_counter()
            answers = await self._call(deadline, task, image, options)
            passed(task, begin, answers)
            return answers if isinstance(answers, ApiError) else answers[0].content

        answers = await run_all([ask(task, options) for task, options in request.tasks.items()])
        parts = dict(zip(request.tasks, answers, strict=True))
        if all(isinstance(part, ApiError) for part in answers):
            raise _worst(parts)
        failed: ApiError | None = None
        if request.then:
            begin = perf_counter()
            labels = await self._classify_objects(deadline, image, parts, request.then, size)
            if isinstance(labels, ApiError):
                failed = labels
            else:
                parts = {task: _with_labels(part, labels, size) for task, part in parts.items()}
            if labels:
                passed("then", begin)
        return await self._pool.run(partial(_to_json, size, parts, failed)), seconds

    async def _classify_objects(
        self,
        deadline: Deadline,
        image: ObjectRef,
        parts: Mapping[str, Answer | ApiError],
        options: ClassifyOptions,
        size: tuple[int, int],
    ) -> dict[Region, list[Prediction]] | ApiError:
        """Classify the region of each object found; return the labels by region."""
        # Two tasks often find the same box, and `localize` returns one box for all its labels.
        regions = list(dict.fromkeys(region for part in parts.values() for region in _regions(part, size) if region))
        if not regions:
            return {}
        answers = await self._call(deadline, "classify", image, options, regions)
        if isinstance(answers, ApiError):
            return answers
        return {region: answer.content.predictions for region, answer in zip(regions, answers, strict=True)}

    async def _call(
        self, deadline: Deadline, task: str, image: ObjectRef, options: Options, regions: list[Region] | None = None
    ) -> list[TimedAnswer[Answer]] | ApiError:
        def answer(handle: DeploymentHandle) -> DeploymentResponse[list[TimedAnswer[Answer]] | ApiError]:
            # Passed by reference, so that messages do not carry the pixels, and in a list, so that Ray does not fetch
            # them before the worker has admitted the image.
            return handle.options(_by_reference=True).answer.remote([image], options, regions)

        try:
            return await self._handles.call(task, deadline, answer)
        except ApiError as error:
            return error

    def _decode(self, content: bytes, guard: Guard) -> tuple[ObjectRef, tuple[int, int]]:
        image = images.decode(content, self._settings.max_image_pixels, guard)
        return ray.put(np.asarray(image)), image.size


def _regions(part: Answer | ApiError, size: tuple[int, int]) -> list[Region | None]:
    """Return the region to classify for each prediction, or None."""
    if isinstance(part, ApiError):
        return []
    return [
        region_of(one.box, *size) if one.box and index < MAX_OBJECTS else None
        for index, one in enumerate(part.predictions)
    ]


def _with_labels(
    part: Answer | ApiError, labels: Mapping[Region, list[Prediction]], size: tuple[int, int]
) -> Answer | ApiError:
    """Return a copy of an answer whose objects carry the labels of their regions."""
    if isinstance(part, ApiError):
        return part
    predictions = [
        one.model_copy(update={"classification": labels[region]}) if region else one
        for one, region in zip(part.predictions, _regions(part, size), strict=True)
    ]
    return part.model_copy(update={"predictions": predictions})


def _worst(parts: Mapping[str, Answer | ApiError]) -> ApiError:
    """Return the error with the highest status: a 5xx error is often temporary, so a retry may help."""
    return max((one for one in parts.values() if isinstance(one, ApiError)), key=lambda one: one.status)


def _to_json(size: tuple[int, int], parts: Mapping[str, Answer | ApiError], then: ApiError | None) -> str:
    analysis = Analysis.model_construct(
        image=ImageSize(width=size[0], height=size[1]),
        tasks={task: responses.failure(part) if isinstance(part, ApiError) else part for task, part in parts.items()},
        then=responses.failure(then) if then else None,
    )
    return analysis.model_dump_json(exclude_none=True)
