"""What is logged of each request: one line, when it is answered."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foursight.serving.cached_pipeline import CachedAnswer
from foursight.serving.errors import ApiError
from foursight.serving.logs import OWN_ID, logger
from foursight.serving.ray_internals import request_context

# Paths that machines request every few seconds.
CHECKS = ("/healthz", "/readyz", "/metrics")


@dataclass
class RequestRecord:
    """What is logged of a request; what is not known is left out.

    Times are in milliseconds, those of several images the longest; `bytes` and `pixels` are sums over the images.
    """

    task: str
    id: str | None = None
    client: str | None = None
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

    def log(self, status: int, seconds: float) -> None:
        """Write the line: a warning if the server failed, for the checks of machines only with the level debug."""
        self.status, self.total_ms = status, milliseconds(seconds)
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        quiet = self.id == OWN_ID or (self.path in CHECKS and status < 500)
        level = logging.DEBUG if quiet else logging.WARNING if status >= 500 else logging.INFO
        logger.log(level, "request", extra={"fields": fields})


def milliseconds(seconds: float) -> float:
    """Return a time in milliseconds, to the tenth."""
    return round(1000 * seconds, 1)


def start_record(task: str, scope: Scope, path: str | None = None) -> RequestRecord:
    """Return the record of a request that has arrived."""
    client = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"), None)
    return RequestRecord(task, request_context.request_id() or None, client, path)


class Logged:
    """An ASGI application whose requests are logged; handlers find the record in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        record = scope["record"] = start_record("gateway", scope, scope["path"])

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            record.log(status, perf_counter() - start)
