"""OpenTelemetry traces: a span for each request, with those of its steps, sent where the variables OTEL_* say.

    times of an answered request -> spans -> queue -> thread of the SDK -> OTLP

Without an endpoint in the environment, nothing of OpenTelemetry is imported here.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import import_module
from importlib.metadata import version
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, cast

from starlette.types import Scope

from foursight.serving.logs import logger

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

Attributes = dict[str, str | int | float]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_DISABLED = "OTEL_SDK_DISABLED"
# For each protocol: the module of the exporter, and what installs it.
_MODULES = {
    "http/protobuf": (
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "From Foursight's source folder, run: pip install '.[otel]'",
    ),
    "grpc": (
        "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
        "Run: pip install opentelemetry-exporter-otlp-proto-grpc",
    ),
}
# The methods of RFC 9110 and RFC 5789, as the semantic conventions list them.
_METHODS = {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}


class TracesUnavailable(Exception):
    """The environment asks for traces that cannot be sent; the message is one line for a person."""


@dataclass(frozen=True)
class Step:
    """A part of a request's work. `start` and `end` are times of `perf_counter`, which all processes share."""

    name: str
    start: float
    end: float
    attributes: Attributes = field(default_factory=dict)
    steps: Sequence["Step"] = ()


def endpoint(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable that says where spans are sent; None if they are not made."""
    if environ.get(_DISABLED, "").strip().lower() == "true" or environ.get(_EXPORTER, "").strip() == "none":
        return None
    return next((name for name in _ENDPOINTS if environ.get(name)), None)


def exporter() -> type["SpanExporter"]:
    """Return the class that exports spans. Raises TracesUnavailable."""
    if (kind := os.environ.get(_EXPORTER, "").strip() or "otlp") != "otlp":
        raise TracesUnavailable(f"{_EXPORTER} must be otlp or none, not {kind!r}.")
    name = next((name for name in _PROTOCOLS if os.environ.get(name)), _PROTOCOLS[-1])
    protocol = os.environ.get(name, "").strip() or "http/protobuf"
    if protocol not in _MODULES:
        raise TracesUnavailable(f"{name} must be {' or '.join(_MODULES)}, not {protocol!r}.")
    module, command = _MODULES[protocol]
    try:
        return cast("type[SpanExporter]", import_module(module).OTLPSpanExporter)
    except ModuleNotFoundError:
        raise TracesUnavailable(
            f"{endpoint()} is set, but OpenTelemetry's exporter for {protocol} is not installed. {command}"
        ) from None


def connect(instance: str) -> "Traces | None":
    """Return what makes the spans of this process, a replica with the id `instance`; None without an endpoint."""
    return Traces(instance) if endpoint() else None


class Traces:
    """Makes spans of requests that have been answered. Raises TracesUnavailable."""

    def __init__(self, instance: str) -> None:
        from opentelemetry import propagate, trace  # noqa: PLC0415
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        # What cannot be sent is said in the server's log.
        reports = logging.getLogger("opentelemetry")
        reports.handlers, reports.propagate = [*logger.handlers], False
        own = {"service.name": "foursight", "service.version": version("foursight-vision")}
        resource = Resource.create(own | {"service.instance.id": instance}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter()()))
        # Not the global provider, through which Ray would send spans of its own.
        self._tracer = self._provider.get_tracer("foursight", own["service.version"])
        self._propagate = propagate
        self._trace = trace

    def add(
        self,
        scope: Scope,
        route: str | None,
        status: int,
        attributes: Attributes,
        steps: Sequence[Step],
        start: float,
        end: float,
    ) -> str | None:
        """Add the span of a request and those of its steps; return the id of the trace, or None if it is not sampled.

        `scope` is ASGI's, `route` the path without what varies. `start` and `end` are times of `perf_counter`.
        """
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        verb = "HTTP" if method == "_OTHER" else method
        # Spans have wall-clock times.
        offset = time_ns() - perf_counter_ns()
        span = self._tracer.start_span(
            f"{verb} {route}" if route else verb,
            self._propagate.extract(headers),
            self._trace.SpanKind.SERVER,
            _http_attributes(scope, headers, method, route, status) | attributes,
            start_time=_nanoseconds(start) + offset,
        )
        if not span.is_recording():
            return None
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_status(self._trace.StatusCode.ERROR)
        self._add_steps(self._trace.set_span_in_context(span), steps, offset)
        span.end(_nanoseconds(end) + offset)
        return self._trace.format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send the spans that have not been sent; none can be added afterwards."""
        self._provider.shutdown()

    def _add_steps(self, parent: "Context", steps: Sequence[Step], offset: int) -> None:
        for step in steps:
            start = _nanoseconds(step.start) + offset
            span = self._tracer.start_span(step.name, parent, attributes=step.attributes, start_time=start)
            self._add_steps(self._trace.set_span_in_context(span, parent), step.steps, offset)
            span.end(_nanoseconds(step.end) + offset)


def _http_attributes(
    scope: Scope, headers: Mapping[str, Sequence[str]], method: str, route: str | None, status: int
) -> Attributes:
    """Return the attributes of OpenTelemetry's semantic conventions for HTTP servers."""
    found: dict[str, str | int | None] = {
        "http.request.method": method,
        "http.request.method_original": None if method == scope["method"] else scope["method"],
        "http.response.status_code": status,
        "http.route": route,
        "url.path": scope["path"],
        "url.scheme": headers.get("x-forwarded-proto", ["http"])[0],
        "user_agent.original": headers.get("user-agent", [None])[0],
    }
    return {name: value for name, value in found.items() if value is not None}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
