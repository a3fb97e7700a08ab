"""Start and end of `foursight serve`: one line for what is wrong, and no process left behind, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import Running, free_port
from tests.photos import encoded, photo


def serve(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foursight", "serve", *options]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_start_says_in_one_line_that_a_server_runs(server: str) -> None:
    port = server.rsplit(":", 1)[1]
    second = serve("--port", port)
    assert second.returncode == 1
    assert second.stderr.splitlines() == [
        f"foursight serve: A Foursight server runs on 127.0.0.1:{port} already; end it, or choose a port with --port."
    ]


def test_a_port_that_another_program_holds_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = serve(FOURSIGHT_PORT=str(port))
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert f"Another program listens on 127.0.0.1:{port}" in refused.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--tasks", "classify,describe"), "describe"),
        (("--profile", "huge"), "tiny"),
        (("--port", "http"), "--port"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_that_names_it(options: tuple[str, ...], named: str) -> None:
    refused = serve(*options)
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


def test_missing_standard_weights_are_one_line_with_the_way_out(tmp_path: Path) -> None:
    # The proxy refuses, so that nothing is fetched where there is a network.
    refused = serve(
        "--profile", "standard", "--tasks", "classify", "--port", str(free_port()),
        TORCH_HOME=str(tmp_path), https_proxy="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9",
    )  # fmt: skip
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    for part in ("resnet50-11ad3fa6.pth", "98 MB", str(tmp_path / "hub" / "checkpoints"), "--profile tiny"):
        assert part in refused.stderr


def test_nothing_is_left_after_ctrl_c_nor_after_sigterm_nor_after_kill_and_a_new_start(tmp_path: Path) -> None:
    port = free_port()
    killed: list[int] = []
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        # Each start is on the same port: whoever was killed before must have let go of it.
        with Running(port, tmp_path / f"log-{number}", "--tasks", "classify") as running:
            assert gone(killed)
            parent = psutil.Process(running.process.pid)
            family = [parent.pid, *(child.pid for child in parent.children(recursive=True))]
            assert len(family) > 5
            answer = httpx.post(f"{running.url}/v1/classify", content=encoded(photo("coffee")), timeout=60).json()
            assert answer["predictions"][0]["label"] == "espresso"
            running.process.send_signal(number)
            running.process.wait(timeout=60)
        if number == signal.SIGKILL:
            killed = family
            continue
        assert gone(family)
        assert running.process.returncode == 0
        # Nothing but ours is said on the way down.
        assert running.log.read_text().split("Ctrl-C stops it.")[1].split() == ["Stopping", "...", "Stopped."]
        assert not list(Path("/tmp").glob(f"fs-*-{running.process.pid}-*"))


def gone(family: list[int]) -> bool:
    """Whether all processes end; they are given a moment for it."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in family):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
