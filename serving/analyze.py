"""POST /v1/analyze: several tasks for one upload, side by side, and what ImageNet's labels say of each object found.

    request --> bytes --> [pool: decode] --> shared memory --> worker: classify  --> one answer, a part for each task
                                                         '--> worker: detect ... --'
                                    then=classify: objects' boxes --> worker: classify (cuts them out, one batch)

A photo is decoded once, here. Its pixels stand in Ray's object store, which the workers of a machine read in place;
what goes between the processes is a reference. Each worker takes it in by its own rules (serving/endpoint.py), so that
a task that is full, or dead, costs the others nothing.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import ray
from ray import ObjectRef, serve
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from foursight.models import image as images
from foursight.models.engines import environment
from foursight.models.errors import OptionError
from foursight.schema import Analysis, Answer, Box, ImageSize
from foursight.schema.analyze import MARGIN, MAX_OBJECTS, AnalyzeOptions
from foursight.schema.options import ClassifyOptions, Options
from foursight.schema.tasks import TASKS
from foursight.serving import responses, upload
from foursight.serving.admission import Places
from foursight.serving.endpoint import Answered, Region
from foursight.serving.errors import STATUS, ApiError, as_api_error, logger
from foursight.serving.finetuned import served_models
from foursight.serving.metrics import RequestMetrics
from foursight.serving.settings import Settings

Value = TypeVar("Value")

FINDING = tuple(name for name, task in TASKS.items() if task.has_boxes)
# A worker says at once whether it takes a photo; one that is silent so long is dead or restarting.
ADMIT_TIMEOUT_S = 5.0
# Below HAProxy's own, which would lose what the other tasks have found.
ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Asked:
    """What a request asks for: the options of each of its tasks, and of the classification of what they find."""

    tasks: dict[str, Options]
    then: ClassifyOptions | None


def read_query(query: str, served: tuple[str, ...], task_of: Callable[[str], str | None] = lambda name: None) -> Asked:
    """What a query string asks of the tasks that are served.

    Each task gets the options that it knows; `task_of` gives the task of a fine-tuned model, for which the others
    answer as they are. Raises OptionError (unknown_parameter, invalid_parameter) for one that
    none of them knows, or that one of them cannot take.
    """
    values = upload.parse_query(query)
    own = upload.to_options(_only(values, AnalyzeOptions.model_fields), AnalyzeOptions)
    tasks = tuple(own.tasks or served)
    absent = [name for name in (*tasks, *([own.then] if own.then else [])) if name not in served]
    if absent:
        raise OptionError(
            "invalid_parameter", f"The task {absent[0]!r} is not served here.", f"There are: {', '.join(served)}."
        )
    if own.then and not set(tasks) & set(FINDING):
        raise OptionError(
            "invalid_parameter",
            f"then={own.then} needs a task that finds objects, and tasks={','.join(tasks)} has none.",
            f"Add one of {', '.join(FINDING)}.",
        )
    kinds = {task: TASKS[task].options for task in tasks}
    # Of classification only top_k is for the objects: classes and thresholds are those of the task that finds them.
    of_objects = ("top_k",) if own.then else ()
    known = dict.fromkeys(
        (*AnalyzeOptions.model_fields, *(n for k in kinds.values() for n in k.model_fields), *of_objects)
    )
    for name in values:
        if name not in known:
            raise upload.unknown_parameter(name, known)
    owner = task_of(values["model"]) if "model" in values else None
    fields = {
        task: [name for name in kind.model_fields if name != "model" or owner in (None, task)]
        for task, kind in kinds.items()
    }
    return Asked(
        {task: upload.to_options(_only(values, fields[task]), kind) for task, kind in kinds.items()},
        upload.to_options(_only(values, of_objects), ClassifyOptions) if own.then else None,
    )


def _only(values: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    return {name: values[name] for name in names if name in values}


def region_of(box: Box, width: int, height: int) -> Region:
    """The whole pixels (left, top, right, bottom) of a photo under a box and MARGIN of its sides around it."""
    left, top, right, bottom = box
    x, y = MARGIN * (right - left), MARGIN * (bottom - top)
    x1, y1 = max(0, math.floor(left - x)), max(0, math.floor(top - y))
    return (
        min(x1, width - 1),
        min(y1, height - 1),
        min(width, max(math.ceil(right + x), x1 + 1)),
        min(height, max(math.ceil(bottom + y), y1 + 1)),
    )


class _Timing:
    """Where the time of a request goes, in seconds by the name of the step."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Measure a step."""
        start = perf_counter()
        try:
            yield
        finally:
            self._seconds[step] = perf_counter() - start

    def header(self, total: float) -> str:
        """The Server-Timing header (W3C), in milliseconds."""
        steps = self._seconds | {"total": total}
        return ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in steps.items())


async def _together(work: dict[str, Coroutine[Any, Any, Value]]) -> dict[str, Value]:
    return dict(zip(work, await asyncio.gather(*work.values()), strict=True))


async def _within(seconds: float, call: DeploymentResponse[Value]) -> Value:
    """What a worker answers; a call that nobody waits for any more is called off. Raises TimeoutError, Ray's errors."""
    try:
        return await asyncio.wait_for(call, seconds)
    except BaseException:
        call.cancel()
        raise


def _unavailable(task: str, error: object) -> ApiError:
    logger.warning("no answer from the task %s: %s", task, type(error).__name__)
    return ApiError(
        "unavailable",
        f"The worker of the task {task!r} does not answer.",
        "It is being restarted: try again in 2 seconds.",
        {"Retry-After": "2"},
    )


def _worst(found: Mapping[str, Answer | ApiError]) -> ApiError:
    """Of several refusals the one with the highest status: what passes by itself is to be tried again."""
    return max((one for one in found.values() if isinstance(one, ApiError)), key=lambda one: STATUS[one.code])


def _to_json(size: tuple[int, int], parts: dict[str, Answer | ApiError], then: ApiError | None) -> str:
    analysis = Analysis.model_construct(
        image=ImageSize(width=size[0], height=size[1]),
        tasks={task: responses.failure(part) if isinstance(part, ApiError) else part for task, part in parts.items()},
        then=responses.failure(then) if then else None,
    )
    return analysis.model_dump_json(exclude_none=True)


class Analyzer:
    """Answers POST /v1/analyze."""

    def __init__(self, settings: Settings, metrics: RequestMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._places = Places("analyze", settings.max_queue + settings.max_batch, metrics)
        self._pool = ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="photo")
        self._handles: dict[str, DeploymentHandle] = {}

    async def answer(self, request: Request) -> Response:
        """The answer to a request, or the problem details of why there is none."""
        start = perf_counter()
        try:
            response = await self._respond(request, start)
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            response = responses.error_response(as_api_error(error))
        self._metrics.answered(response.status_code, perf_counter() - start)
        return response

    async def _respond(self, request: Request, start: float) -> Response:
        asked = read_query(request.url.query, self._settings.tasks, self._task_of)
        responses.negotiate(request.headers.get("accept", ""), ("application/json",))
        with self._places.take(1):
            # Asked before the body is read: what nobody takes is refused before it costs memory.
            found: dict[str, Answer | ApiError] = {
                task: refusal for task, refusal in (await self._admit(asked)).items() if refusal
            }
            if len(found) == len(asked.tasks):
                raise _worst(found)
            bodies = await upload.read_images(request, self._settings.max_upload_bytes)
            if len(bodies) > 1:
                raise ApiError("too_many_images", f"The upload has {len(bodies)} images.", "An analysis takes one.")
            timing = _Timing()
            with timing.of("decode"):
                photo, size = await self._in_pool(partial(self._decode, bodies.pop()))
            admitted = [task for task in asked.tasks if task not in found]
            found |= await _together({t: self._ask(t, photo, asked.tasks[t], timing) for t in admitted})
            if all(isinstance(result, ApiError) for result in found.values()):
                raise _worst(found)
            failed = await self._classify_objects(photo, found, asked.then, size, timing) if asked.then else None
            parts = {task: found[task] for task in asked.tasks}
            body = await self._in_pool(partial(_to_json, size, parts, failed))
        headers = {"Server-Timing": timing.header(perf_counter() - start)}
        return Response(body, media_type="application/json", headers=headers)

    async def _admit(self, asked: Asked) -> dict[str, ApiError | None]:
        async def admit(task: str, options: Options) -> ApiError | None:
            try:
                # Of all replicas, and not routed to one: who routes waits for a worker that is not there.
                call = (await self._handle(task)).broadcast("admit", options)
                said = await call.results_async(timeout_s=ADMIT_TIMEOUT_S, return_exceptions=True)
            except Exception as error:
                return _unavailable(task, error)
            if None in said:
                return None
            refusals = [one for one in said if isinstance(one, ApiError)]
            return refusals[0] if refusals else _unavailable(task, said[0])

        return await _together({task: admit(task, options) for task, options in asked.tasks.items()})

    async def _ask(self, task: str, photo: ObjectRef, options: Options, timing: "_Timing") -> Answer | ApiError:
        with timing.of(task):
            results = await self._call(task, photo, options)
        return results if isinstance(results, ApiError) else results[0].answer

    async def _classify_objects(
        self,
        photo: ObjectRef,
        found: dict[str, Answer | ApiError],
        options: ClassifyOptions,
        size: tuple[int, int],
        timing: "_Timing",
    ) -> ApiError | None:
        """Put into `found` what classification says of each object; the result is why it could not."""
        objects = {
            task: [(one, region_of(one.box, *size)) for one in answer.predictions[:MAX_OBJECTS] if one.box]
            for task, answer in found.items()
            if isinstance(answer, Answer)
        }
        # Two tasks often find the same box, and localize gives one for all its labels.
        regions = list(dict.fromkeys(region for some in objects.values() for _, region in some))
        if not regions:
            return None
        with timing.of("then"):
            results = await self._call("classify", photo, options, regions)
        if isinstance(results, ApiError):
            return results
        labels = dict(zip(regions, (result.answer.predictions for result in results), strict=True))
        for task, some in objects.items():
            answer = found[task]
            if isinstance(answer, Answer) and some:
                named = [one.model_copy(update={"classification": labels[region]}) for one, region in some]
                found[task] = answer.model_copy(update={"predictions": named + answer.predictions[MAX_OBJECTS:]})
        return None

    async def _call(
        self, task: str, photo: ObjectRef, options: Options, regions: list[Region] | None = None
    ) -> list[Answered[Answer]] | ApiError:
        try:
            # By reference, as else each message would have the pixels; and in a list, as else Ray would fetch them
            # before the worker has a place for them.
            handle = (await self._handle(task)).options(_by_reference=True)
            call = handle.answer.remote([photo], options, regions)
            results: list[Answered[Answer]] | ApiError = await _within(ANSWER_TIMEOUT_S, call)
        except Exception as error:
            return _unavailable(task, error)
        return results

    async def _handle(self, task: str) -> DeploymentHandle:
        if task not in self._handles:
            # In a thread, since it waits for Serve's controller.
            self._handles[task] = await asyncio.to_thread(serve.get_app_handle, task)
        return self._handles[task]

    def _decode(self, body: bytes) -> tuple[ObjectRef, tuple[int, int]]:
        image = images.decode(body, self._settings.max_image_pixels)
        return ray.put(np.asarray(image)), image.size

    def _task_of(self, name: str) -> str | None:
        entry = served_models.read(self._settings).get(name)
        return entry.task if entry else None

    async def _in_pool(self, work: Callable[[], Value]) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
