"""What is logged of each request, one line when it is answered, and what its trace shows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foursight.serving.cached_pipeline import CachedAnswer
from foursight.serving.errors import ApiError
from foursight.serving.logs import OWN_ID, logger
from foursight.serving.pipeline import TimedAnswer
from foursight.serving.ray_internals import key_rules, request_context
from foursight.serving.traces import Attributes, Step, Traces

# Paths that machines request every few seconds.
CHECKS = ("/healthz", "/readyz", "/metrics")
_ROUTER_HEADERS = (b"x-forwarded-for", key_rules.HEADER.lower().encode())


@dataclass
class RequestRecord:
    """What is logged of a request; what is not known is left out.

    `key` is the name of the API key. Times are in milliseconds, those of several images the longest; `bytes` and
    `pixels` are sums over the images. `steps` is not logged, but shown in the request's trace; None if there is none.
    """

    task: str
    id: str | None = None
    client: str | None = None
    key: str | None = None
    path: str | None = None
    model: str | None = None
    status: int = 0
    code: str | None = None
    images: int | None = None
    bytes: int | None = None
    pixels: int | None = None
    decode_ms: float | None = None
    queue_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float = 0.0
    batch: int | None = None
    cache: str | None = None
    trace_id: str | None = None
    steps: list[Step] | None = None

    def answered(self, answers: Sequence[CachedAnswer | ApiError]) -> None:
        """Take pixels and times from the answers of the request's images."""
        found = [one for one in answers if isinstance(one, CachedAnswer)]
        self.pixels = sum(one.answer.pixels for one in found)
        if found:
            self.cache = ",".join(one.status for one in found)
        computed = [one.answer for one in found if one.status == "miss"]
        if computed:
            self.decode_ms = milliseconds(max(one.decode_s for one in computed))
            self.queue_ms = milliseconds(max(one.timing.queue_s for one in computed))
            self.inference_ms = milliseconds(max(one.timing.inference_s for one in computed))
            self.batch = max(one.timing.batch_size for one in computed)
        if self.steps is not None:
            self.steps += [step for one in computed for step in steps_of(one)]

    def trace(self, traces: Traces, scope: Scope, route: str | None, status: int, start: float, end: float) -> None:
        """Add the request's spans; `start` and `end` are times of `perf_counter`."""
        if self._is_check(status):
            return
        shown: dict[str, str | int | None] = {
            "client.address": self.client,
            "foursight.key": self.key,
            "error.type": (self.code or str(status)) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None,
            "foursight.task": self.task,
            "foursight.request_id": self.id,
            "foursight.model": self.model,
            "foursight.images": self.images,
            "foursight.bytes": self.bytes,
            "foursight.pixels": self.pixels,
            "foursight.batch_size": self.batch,
            "foursight.cache": self.cache,
            "foursight.error_code": self.code,
        }
        attributes: Attributes = {name: value for name, value in shown.items() if value is not None}
        self.trace_id = traces.add(scope, route, status, attributes, self.steps or (), start, end)

    def log(self, status: int, seconds: float) -> None:
        """Write the line: a warning if the server failed, for the checks of machines only with the level debug."""
        self.status, self.total_ms = status, milliseconds(seconds)
        fields = {name: value for name, value in vars(self).items() if value is not None and name != "steps"}
        level = logging.DEBUG if self._is_check(status) else logging.WARNING if status >= 500 else logging.INFO
        logger.log(level, "request", extra={"fields": fields})

    def _is_check(self, status: int) -> bool:
        """Whether it is one of the requests that machines send all the time."""
        return self.id == OWN_ID or (self.path in CHECKS and status < HTTPStatus.INTERNAL_SERVER_ERROR)


def milliseconds(seconds: float) -> float:
    """Return a time in milliseconds, to the tenth."""
    return round(1000 * seconds, 1)


def steps_of(answer: TimedAnswer[Any]) -> list[Step]:
    """Return the steps of an image's answer, one after the other; each has its wait."""
    times = {
        "decode": answer.decode_s,
        "queue": answer.timing.queue_s,
        "inference": answer.timing.inference_s,
        "encode": answer.encode_s,
    }
    ends = accumulate(times.values(), initial=answer.start)
    batch: dict[str, Attributes] = {"inference": {"foursight.batch_size": answer.timing.batch_size}}
    return [Step(name, *span, batch.get(name, {})) for name, span in zip(times, pairwise(ends), strict=True)]


def start_record(task: str, scope: Scope, traces: Traces | None, path: str | None = None) -> RequestRecord:
    """Return the record of a request that has arrived. The router has set the headers with the client and its key."""
    found = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _ROUTER_HEADERS}
    client, key = (found.get(name) for name in _ROUTER_HEADERS)
    steps: list[Step] | None = [] if traces else None
    return RequestRecord(task, request_context.request_id() or None, client, key, path, steps=steps)


def _route(scope: Scope) -> str | None:
    """Return the path of a request as its route has it, with the names of what varies; None for an unknown path."""
    routes = scope["app"].routes if "app" in scope else ()
    matches = (one.path_format for one in routes if isinstance(one, Route) and one.matches(scope)[0] == Match.FULL)
    return next(matches, None)


class Logged:
    """An ASGI application whose requests are logged; handlers find the record in the scope."""

    def __init__(self, app: ASGIApp, traces: Traces | None = None) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        record = scope["record"] = start_record("gateway", scope, self._traces, scope["path"])

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            end = perf_counter()
            if self._traces:
                record.trace(self._traces, scope, _route(scope), status, start, end)
            record.log(status, end - start)
