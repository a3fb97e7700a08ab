"""Start and end of `foursight serve`: one line per error, and no process left behind, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from foursight.clients.cli.app import main
from foursight.models.finetuned import store
from foursight.models.networks import backbone
from tests.conftest import Running, family_of, free_port, gone
from tests.photos import encoded, photo
from tests.shapes import KINDS, write_model


def serve(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foursight", "serve", *options]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=250, check=False
    )


def test_a_second_start_says_in_one_line_that_a_server_runs(server: str) -> None:
    port = server.rsplit(":", 1)[1]
    second = serve("--port", port)
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"foursight serve: A Foursight server already listens on 127.0.0.1:{port}. "
        "Stop it, or choose another port with --port."
    ]


def test_a_port_that_another_program_holds_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = serve(FOURSIGHT_PORT=str(port))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert f"Another program already listens on 127.0.0.1:{port}" in refused.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tasks", "classify,describe"), "describe"),
        (("--profile", "huge"), "tiny"),
        (("--port", "http"), "'--port' (FOURSIGHT_PORT): must be an integer from 1 to 65535, not 'http'"),
        (("--max-bytes", "4096"), "--max-upload-bytes"),
        (("--max-pixels", "4096"), "--max-image-pixels"),
        (("--answer-cache", "1"), "--answer-cache-mib"),
        (("--calibration", "images"), "--calibration-dir"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_it(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], named: str
) -> None:
    assert main(["serve", *options]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert "Traceback" not in told


def test_missing_standard_weights_are_one_line_with_the_way_out(tmp_path: Path) -> None:
    # This proxy refuses, so nothing is downloaded even with a network.
    refused = serve(
        "--profile", "standard", "--tasks", "classify", "--port", str(free_port()),
        TORCH_HOME=str(tmp_path), https_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9",
    )  # fmt: skip
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    for part in ("resnet50-11ad3fa6.pth", "98 MB", str(tmp_path / "hub" / "checkpoints"), "tiny profile"):
        assert part in refused.stderr


@pytest.mark.parametrize(("number", "moment"), [(signal.SIGTERM, "raylet"), (signal.SIGINT, "ServeReplica")])
def test_a_stop_during_the_start_is_one_line_and_leaves_nothing(number: signal.Signals, moment: str) -> None:
    """The moment is the first process whose command line contains it."""
    command = [sys.executable, "-m", "foursight", "serve", "--tasks", "classify", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr
        family: list[int] = []
        commands: list[str] = []
        while not any(moment in command for command in commands):
            time.sleep(0.2)
            assert started.poll() is None, started.stderr.read()
            family = family_of(started.pid)
            found = psutil.process_iter(["cmdline"])
            commands = [" ".join(one.info["cmdline"] or []) for one in found if one.pid in family]
        started.send_signal(number)
        started.send_signal(number)
        assert started.wait(timeout=60) == 130
        assert started.stderr.read() == "foursight serve: Stopped before it was ready.\n"
    assert gone(family)
    assert not list(Path("/tmp").glob(f"fs-*-{started.pid}-*"))


def test_nothing_is_left_after_ctrl_c_nor_after_kill_and_what_is_whole_is_served_again(tmp_path: Path) -> None:
    """SIGTERM is covered by conftest.Running, which ends every server with it and checks what is left."""
    port, models = free_port(), tmp_path / "models"
    for name in ("kept", "broken"):
        write_model(models / name, backbone.load("tiny"), seed=1)
    (models / "broken" / store.WEIGHTS).write_bytes(b"short")
    killed: list[int] = []
    # A caller's setting that would let every process on this machine use Ray.
    insecure = {"RAY_AUTH_MODE": "disabled"}
    for number in (signal.SIGKILL, signal.SIGINT):
        # Each start uses the same port, which the killed server must have released.
        with Running(port, tmp_path / "log", "--tasks", "classify", "--models-dir", str(models), **insecure) as running:
            assert gone(killed)
            assert "Not served: The model 'broken' is damaged" in running.log.read_text()
            family = family_of(running.process.pid)
            assert len(family) > 5
            (raylet,) = [one for one in map(psutil.Process, family) if one.name() == "raylet"]
            assert raylet.environ()["RAY_AUTH_MODE"] == "token"
            assert len(raylet.environ()["RAY_AUTH_TOKEN"]) == 64
            for name, label in ((None, "espresso"), ("kept", KINDS)):
                parameters = {"model": name} if name else {}
                url = f"{running.url}/v1/classify"
                answer = httpx.post(url, content=encoded(photo("coffee")), params=parameters, timeout=60).json()
                assert answer["predictions"][0]["label"] in label
            running.process.send_signal(number)
            running.process.wait(timeout=60)
        killed = family
    assert gone(family)
    assert running.process.returncode == 0
    # The shutdown prints only our own messages.
    assert running.messages() == ["Stopping ...", "Stopped."]
    assert not list(Path("/tmp").glob(f"fs-*-{running.process.pid}-*"))


@pytest.mark.parametrize("vital", ["raylet", "gcs_server"])
def test_without_a_process_of_ray_the_server_ends_and_says_so(tmp_path: Path, vital: str) -> None:
    options = ("--tasks", "classify", "--models-dir", str(tmp_path / "models"))
    with Running(free_port(), tmp_path / "log", *options) as running:
        family = family_of(running.process.pid)
        (killed,) = [one for one in map(psutil.Process, family) if one.name() == vital]
        killed.kill()
        assert running.process.wait(timeout=60) == 1
        assert gone(family)
        # Ray may print the end of the raylet's log before.
        last = running.log.read_text().splitlines()[-1]
        assert last.startswith("foursight serve: ")
        assert f"(process {killed.pid}) has ended. The server ends." in last


def test_a_stop_answers_what_is_in_flight_and_refuses_the_rest(tmp_path: Path) -> None:
    port, body = free_port(), encoded(photo("coffee"), "JPEG")
    head = (
        f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with Running(port, tmp_path / "log", "--tasks", "classify") as running, ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(8)]
        for caller in callers:
            caller.sendall(head.encode())
            # The worker reads the body.
            assert caller.recv(1000).startswith(b"HTTP/1.1 100")
        running.process.terminate()
        while (refused := httpx.get(f"{running.url}/readyz", timeout=60)).status_code == 200:
            time.sleep(0.05)
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        for caller in callers:
            caller.sendall(body)
        assert [caller.recv(12) for caller in callers] == [b"HTTP/1.1 200"] * 8
        assert running.process.wait(timeout=60) == 0
