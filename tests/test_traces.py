"""Traces: what a real server sends to a receiver of OTLP, parsed with opentelemetry-proto."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

from foursight import AsyncClient, Client
from foursight.serving import logs, preflight, traces
from foursight.serving.preflight import LaunchError
from foursight.serving.settings import Settings
from tests.conftest import Running, free_port
from tests.photos import encoded, photo

CHELSEA = encoded(photo("chelsea"), "JPEG")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE[::-1]}-{PARENT}-00"
STEPS = ["decode", "queue", "inference", "encode"]


class Receiver:
    """A receiver of OTLP over HTTP on a loopback port."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.add(self.path)
                receiver.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Sent:
    """What a server has sent and printed."""

    receiver: Receiver
    lines: dict[str, dict[str, Any]]
    client_trace: str
    client_spans: dict[str, str]

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.receiver.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of_request(self, request_id: str) -> Span:
        (found,) = [one for one in self.spans() if values(one.attributes).get("foursight.request_id") == request_id]
        return found

    def children(self, span: Span) -> list[Span]:
        found = [one for one in self.spans() if one.parent_span_id == span.span_id]
        return sorted(found, key=lambda one: one.start_time_unix_nano)


def values(attributes: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


def post(url: str, path: str, request_id: str, content: bytes = CHELSEA, **headers: str) -> httpx.Response:
    return httpx.post(url + path, content=content, headers={"X-Request-ID": request_id} | headers, timeout=60)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    """All that a server has sent until its end; only the end makes it send."""
    receiver = Receiver()
    tracer = TracerProvider().get_tracer("test")
    spans: dict[str, str] = {}
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    log = tmp_path_factory.mktemp("traces") / "log"
    with Running(free_port(), log, "--tasks", "classify,detect", **variables) as running:
        url = running.url
        post(url, "/v1/classify?top_k=1", "answer", traceparent=SAMPLED, tracestate="rojo=00f067aa0ba902b7")
        post(url, "/v1/classify", "unsampled", traceparent=UNSAMPLED)
        post(url, "/v1/classify", "malformed", traceparent="00-zero-1-01")
        post(url, "/v1/classify/huggingface", "huggingface")
        post(url, "/v1/classify/unknown", "unknown")
        post(url, "/v1/detect", "no-image", b"no image")
        post(url, "/v1/detect", "late", **{"Request-Timeout": "0.000001"})
        post(url, "/v1/analyze", "analyze", traceparent=SAMPLED)
        for path in ("/v1/models/efficientnet-lite0", "/none", "/readyz"):
            httpx.get(url + path, headers={"X-Request-ID": path.replace("/", "-")}, timeout=60)
        with Client(url) as client, tracer.start_as_current_span("work") as span:
            spans["sdk"] = client.classify(CHELSEA).request_id or ""
            (many,) = client.classify_many([CHELSEA])
            spans["many"] = getattr(many, "request_id", "")
            trace = f"{span.get_span_context().trace_id:032x}"

            async def ask() -> str:
                async with AsyncClient(url) as client:
                    return (await client.classify(CHELSEA)).request_id or ""

            spans["async"] = asyncio.run(ask())
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event": "request"' in line]
    yield Sent(receiver, {line["id"]: line for line in lines}, trace, spans)
    receiver.close()


def test_a_request_continues_the_callers_trace(sent: Sent) -> None:
    span = sent.of_request("answer")
    assert (span.name, span.kind, span.status.code) == (
        "POST /v1/classify",
        Span.SPAN_KIND_SERVER,
        Status.STATUS_CODE_UNSET,
    )
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, f"rojo={PARENT}")
    found = values(span.attributes)
    expected = {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/classify",
        "url.path": "/v1/classify",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "foursight.task": "classify",
        "foursight.model": "efficientnet-lite0",
        "foursight.images": 1,
        "foursight.bytes": len(CHELSEA),
        "foursight.pixels": photo("chelsea").width * photo("chelsea").height,
        "foursight.batch_size": 1,
        "foursight.request_id": "answer",
    }
    assert {name: found[name] for name in expected} == expected
    # Queries may have secrets.
    assert "top_k" not in str(found)


def test_the_steps_nest_in_the_request_and_follow_one_another(sent: Sent) -> None:
    span = sent.of_request("answer")
    steps = sent.children(span)
    assert [one.name for one in steps] == STEPS
    assert all(one.trace_id == span.trace_id and one.kind == Span.SPAN_KIND_INTERNAL for one in steps)
    edges = [
        span.start_time_unix_nano,
        *(edge for one in steps for edge in (one.start_time_unix_nano, one.end_time_unix_nano)),
        span.end_time_unix_nano,
    ]
    assert edges == sorted(edges)
    line = sent.lines["answer"]
    for one in steps[:3]:
        duration_ms = (one.end_time_unix_nano - one.start_time_unix_nano) / 1e6
        assert duration_ms == pytest.approx(line[f"{one.name}_ms"], abs=0.06)
    assert values(steps[2].attributes) == {"foursight.batch_size": 1}


def test_the_line_of_a_traced_request_has_its_trace(sent: Sent) -> None:
    assert sent.lines["answer"]["trace_id"] == TRACE
    assert sent.lines["no-image"]["trace_id"] == sent.of_request("no-image").trace_id.hex()
    assert "trace_id" not in sent.lines["unsampled"]


def test_what_the_caller_does_not_sample_is_not_sent(sent: Sent) -> None:
    assert sent.lines["unsampled"]["status"] == 200
    assert TRACE[::-1] not in {span.trace_id.hex() for span in sent.spans()}


def test_a_malformed_parent_begins_a_trace(sent: Sent) -> None:
    assert sent.of_request("malformed").parent_span_id == b""


def test_errors_have_their_codes_and_only_those_of_the_server_are_failures(sent: Sent) -> None:
    refused, late = sent.of_request("no-image"), sent.of_request("late")
    assert (refused.status.code, late.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR)
    assert values(refused.attributes)["foursight.error_code"] == "not_an_image"
    assert "error.type" not in values(refused.attributes)
    assert values(late.attributes)["error.type"] == "deadline_exceeded"
    assert values(late.attributes)["http.response.status_code"] == 504


def test_names_of_spans_have_no_values(sent: Sent) -> None:
    names = {
        key: sent.of_request(key).name for key in ("huggingface", "unknown", "-v1-models-efficientnet-lite0", "-none")
    }
    assert names == {
        "huggingface": "POST /v1/classify/huggingface",
        "unknown": "POST",
        "-v1-models-efficientnet-lite0": "GET /v1/models/{name}",
        "-none": "GET",
    }


def test_checks_of_machines_have_no_span(sent: Sent) -> None:
    assert not [span for span in sent.spans() if "/readyz" in str(values(span.attributes).get("url.path"))]


def test_an_analysis_has_a_span_for_each_task_with_its_steps(sent: Sent) -> None:
    span = sent.of_request("analyze")
    assert (span.name, span.trace_id.hex()) == ("POST /v1/analyze", TRACE)
    decode, *tasks = sent.children(span)
    assert decode.name == "decode"
    assert {one.name for one in tasks} == {"classify", "detect"}
    for task in tasks:
        steps = sent.children(task)
        assert [one.name for one in steps] == STEPS
        assert task.start_time_unix_nano <= steps[0].start_time_unix_nano
        assert steps[-1].end_time_unix_nano <= task.end_time_unix_nano <= span.end_time_unix_nano


def test_the_clients_pass_their_trace_on(sent: Sent) -> None:
    assert {name: sent.of_request(key).trace_id.hex() for name, key in sent.client_spans.items()} == dict.fromkeys(
        ("sdk", "many", "async"), sent.client_trace
    )


def test_the_resource_names_the_service_and_rays_own_spans_are_off(sent: Sent) -> None:
    assert sent.receiver.paths == {"/v1/traces"}
    resources = [one for request in sent.receiver.requests for one in request.resource_spans]
    found = [values(one.resource.attributes) for one in resources]
    assert {one["service.name"] for one in found} == {"foursight"}
    assert {one["deployment.environment.name"] for one in found} == {"test"}
    # The gateway and two workers.
    assert len({one["service.instance.id"] for one in found}) == 3
    assert {scope.scope.name for one in resources for scope in one.scope_spans} == {"foursight"}


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, foursight\nfrom foursight.serving import endpoint, preflight, traces\n"
        "assert traces.connect('one') is None\nprint(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "foursight.serving.traces" in modules
    assert [name for name in modules if name.startswith("opentelemetry")] == []


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "vision"}, False),
    ],
)
def test_an_endpoint_switches_traces_on(variables: dict[str, str], on: bool) -> None:
    assert (traces.endpoint(variables) is not None) == on


@pytest.mark.parametrize(
    ("variables", "missing", "message"),
    [
        (
            {},
            "opentelemetry.exporter.otlp.proto.http.trace_exporter",
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's exporter for http/protobuf is not installed. "
            "From Foursight's source folder, run: pip install '.[otel]'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's exporter for grpc is not installed. "
            "Run: pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "",
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or grpc, not 'http/json'.",
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "", "OTEL_TRACES_EXPORTER must be otlp or none, not 'zipkin'."),
    ],
)
def test_a_start_that_could_not_send_is_refused(
    variables: dict[str, str], missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    with pytest.raises(LaunchError) as caught:
        preflight.check(Settings(port=free_port()))
    assert str(caught.value) == message


def test_what_cannot_be_sent_is_said_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    monkeypatch.setattr(logs.logger, "handlers", [handler])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    made = traces.connect("one")
    assert made is not None
    made.add({"headers": [], "method": "GET", "path": "/"}, None, 200, {}, [], 1.0, 2.0)
    made.close()
    assert any("export" in record.getMessage() for record in records)


def test_spans_are_sent_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[ExportTraceServiceRequest] = []

    class Service(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, _: Any) -> ExportTraceServiceResponse:  # noqa: N802
            received.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Service(), server)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vision")
    server.start()
    made = traces.connect("one")
    assert made is not None
    scope = {"headers": [], "method": "POST", "path": "/v1/classify"}
    trace_id = made.add(scope, "/v1/classify", 200, {}, [traces.Step("decode", 1.0, 1.5)], 1.0, 2.0)
    made.close()
    server.stop(None)
    (resource,) = received[0].resource_spans
    assert values(resource.resource.attributes)["service.name"] == "vision"
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    assert set(spans) == {"POST /v1/classify", "decode"}
    assert spans["decode"].trace_id.hex() == trace_id
    assert spans["decode"].end_time_unix_nano - spans["decode"].start_time_unix_nano == 500_000_000
