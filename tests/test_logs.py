"""The server's log: a line for each request with what an engineer needs, tracebacks under its id, and no secrets."""

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.context import _set_request_context

from foursight.serving import logs
from foursight.serving.endpoint import Endpoint
from foursight.serving.metrics import WorkerMetrics
from foursight.serving.ray_internals import environment
from foursight.serving.request_log import RequestRecord
from foursight.serving.settings import Settings
from tests.conftest import log_of
from tests.photos import encoded, photo
from tests.test_pipeline import Brightness

CHELSEA = encoded(photo("chelsea"), "JPEG")


@pytest.fixture(autouse=True)
def own_logger() -> Iterator[None]:
    """Leave the logger as it was."""
    before = logs.logger.handlers, logs.logger.propagate, logs.logger.level
    yield
    logs.logger.handlers, logs.logger.propagate = before[:2]
    logs.logger.setLevel(before[2])


def line_of(server: str, request_id: str) -> dict[str, Any]:
    """Return the line of a request, which is printed shortly after its answer."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [json.loads(line) for line in log_of(server).splitlines() if request_id in line]
        if lines:
            (line,) = lines
            return line
        time.sleep(0.05)
    raise AssertionError(f"no line of {request_id}")


def post(server: str, path: str, content: bytes, request_id: str, **headers: str) -> httpx.Response:
    return httpx.post(server + path, content=content, headers={"X-Request-ID": request_id} | headers, timeout=60)


def test_an_answer_has_a_line(server: str) -> None:
    response = post(server, "/v1/classify?top_k=1", CHELSEA, "log-answer")
    line = line_of(server, "log-answer")
    height, width = photo("chelsea").height, photo("chelsea").width
    assert {key: line[key] for key in ("level", "event", "task", "model", "status", "images", "bytes", "pixels")} == {
        "level": "info", "event": "request", "task": "classify", "model": response.json()["model"], "status": 200,
        "images": 1, "bytes": len(CHELSEA), "pixels": width * height,
    }  # fmt: skip
    assert line["batch"] >= 1
    steps = [line[f"{step}_ms"] for step in ("decode", "queue", "inference")]
    assert 0 < sum(steps) <= line["total_ms"] + 0.2
    assert line["client"] == "127.0.0.1"
    assert "code" not in line


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        ("/v1/classify", b"no image", 415, "not_an_image"),
        ("/v1/detect?size=3", CHELSEA, 400, "unknown_parameter"),
        ("/v1/analyze", b"no image", 415, "not_an_image"),
        ("/v1/none", CHELSEA, 404, "not_found"),
    ],
)
def test_an_error_has_a_line_with_its_code(server: str, path: str, content: bytes, status: int, code: str) -> None:
    request_id = f"log-{code}-{path.replace('/', '-').partition('?')[0]}"
    assert post(server, path, content, request_id).status_code == status
    line = line_of(server, request_id)
    assert (line["status"], line["code"], line["level"]) == (status, code, "info")


def test_what_the_router_refuses_is_logged_and_counted(server: str) -> None:
    def count() -> float:
        samples = [line for line in httpx.get(f"{server}/metrics").text.splitlines() if 'code="unknown_host"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    before = count()
    response = post(server, "/v1/classify?secret-1", b"", "log-router", Host="evil.example")
    assert (response.status_code, response.json()["code"]) == (421, "unknown_host")
    assert "X-Code" not in response.headers
    line = line_of(server, "log-router")
    assert {key: line[key] for key in ("level", "event", "task", "path", "status", "code", "client")} == {
        "level": "info", "event": "request", "task": "router", "path": "/v1/classify", "status": 421,
        "code": "unknown_host", "client": "127.0.0.1",
    }  # fmt: skip
    assert count() == before + 1


def test_what_is_no_http_is_logged(server: str) -> None:
    url = httpx.URL(server)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as caller:
        caller.sendall(b"GET /log-no-http\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert caller.recv(20).startswith(b"HTTP/1.1 400")
    deadline = time.monotonic() + 30
    while '"path": "<BADREQ>"' not in log_of(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_several_images_are_added_up(server: str) -> None:
    files = [("image", ("a.jpg", CHELSEA)), ("image", ("b.jpg", b"no image"))]
    httpx.post(f"{server}/v1/classify", files=files, headers={"X-Request-ID": "log-several"}, timeout=60)
    line = line_of(server, "log-several")
    assert (line["status"], line["images"], line["bytes"]) == (200, 2, len(CHELSEA) + len(b"no image"))
    assert line["pixels"] == photo("chelsea").width * photo("chelsea").height


def test_keys_queries_and_images_are_not_logged(server: str) -> None:
    post(server, "/v1/classify", CHELSEA, "log-secret", Authorization="Bearer secret-key")
    post(server, "/v1/none?key=secret-query", CHELSEA, "log-query")
    line_of(server, "log-secret"), line_of(server, "log-query")
    assert "secret-" not in log_of(server)
    assert max(map(len, log_of(server).splitlines())) < 2000


def test_checks_of_machines_have_no_line(server: str) -> None:
    # The start asked each task whether it was ready.
    assert logs.OWN_ID not in log_of(server)
    for path in ("/healthz", "/readyz", "/metrics"):
        httpx.get(server + path, headers={"X-Request-ID": f"log-check{path}"}, timeout=60)
    post(server, "/v1/none", b"", "log-after-checks")
    line_of(server, "log-after-checks")
    assert "log-check" not in log_of(server)


def printed(capsys: pytest.CaptureFixture[str], count: int) -> list[str]:
    """Wait for lines on the standard output."""
    found = ""
    deadline = time.monotonic() + 30
    while found.count("\n") < count and time.monotonic() < deadline:
        time.sleep(0.02)
        found += capsys.readouterr().out
    return found.splitlines()


class Broken(Brightness):
    def predict(self, batch: list[Any]) -> list[float]:
        raise ArithmeticError("the network is on fire\nand smokes")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server whose process this is."""
    monkeypatch.setenv(environment.CONFIG_FILE, str(tmp_path / "haproxy.cfg"))
    return tmp_path


def test_an_unexpected_error_has_its_traceback_under_the_id(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Endpoint("classify", Broken(), Settings(), WorkerMetrics("classify", "one"))

    async def ask() -> httpx.Response:
        # As Serve does for each request.
        _set_request_context(request_id="mine-1")
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/", content=encoded(photo("coffee")))

    with logs.printing(folder, "json"):
        logs.connect("classify", "info")
        answer = asyncio.run(ask())
        failure, request = map(json.loads, printed(capsys, 2))
    made.close()
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "fire" not in answer.text
    assert (failure["id"], failure["level"], failure["task"]) == ("mine-1", "error", "classify")
    assert failure["exception"].startswith("Traceback")
    assert failure["exception"].endswith("ArithmeticError: the network is on fire\nand smokes")
    assert (request["id"], request["status"], request["level"]) == ("mine-1", 500, "warning")


def test_the_level_decides_what_is_printed_and_text_is_for_people(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logs.printing(folder, "text"):
        logs.connect("detect", "warning")
        RequestRecord("classify", "one").log(200, 0.1)
        RequestRecord("classify", "two", "10.0.0.1", code="internal_error", bytes=71_234, pixels=1_000_000).log(
            500, 0.25
        )
        logging.getLogger("foursight").warning("a worker has ended")
        first, second = printed(capsys, 2)
    assert first.split(maxsplit=1)[1] == "classify 500 internal_error 250 ms 71 kB 1.0 MP 10.0.0.1 two"
    assert second.split(maxsplit=1)[1] == "detect warning: a worker has ended"


def test_without_a_socket_lines_go_to_the_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.connect("detect", "info")
    RequestRecord("detect", "elsewhere").log(200, 0.1)
    deadline, text = time.monotonic() + 30, ""
    while not text and time.monotonic() < deadline:
        time.sleep(0.02)
        text = capsys.readouterr().err
    assert json.loads(text)["id"] == "elsewhere"


def test_lines_that_cannot_be_printed_are_lost_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        with logs.printing(tmp_path, "json"), socket.socket(socket.AF_UNIX) as worker:
            worker.connect(str(tmp_path / logs.SOCKET))
            worker.sendall(b'{"event": "lost"}\n' * 2)
            worker.shutdown(socket.SHUT_WR)
            # The other side closes when it has read all.
            assert worker.recv(1) == b""
        # Closing it would write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert capfd.readouterr().err == ""
