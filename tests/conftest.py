"""One real server for all tests, started with `foursight serve` on a free loopback port."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

MAX_QUEUE = 16
ALLOWED_ORIGIN = "https://app.example"
_pids: dict[str, int] = {}
_logs: dict[str, Path] = {}


# The groups that take longest, longest first.
LONGEST = (
    "server",
    "test_finetune_detector.py",
    "test_launch.py",
    "test_lifecycle.py",
    "test_distribution.py",
    "test_precision.py",
    "test_access.py",
    "test_fifth_task.py",
)


# Before the hook of pytest-xdist, which reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for pytest-xdist: those of the one server, and the others by file; the longest come first.

    A group runs in one process. Some tests count the server's requests or kill its workers, so no other test may use it
    at the same time.
    """

    def group(item: pytest.Item) -> str:
        return "server" if "server" in getattr(item, "fixturenames", ()) else item.path.name

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: LONGEST.index(group(item)) if group(item) in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of `server`; empty at the start."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[str]:
    """The URL of a server with all four tasks of the tiny profile."""
    environment = {
        "FOURSIGHT_MAX_QUEUE": str(MAX_QUEUE),
        "FOURSIGHT_MODELS_DIR": str(models_dir),
        "FOURSIGHT_ALLOWED_ORIGINS": ALLOWED_ORIGIN,
    }
    with Running(free_port(), tmp_path_factory.mktemp("server") / "log", **environment) as running:
        yield running.url


@pytest.fixture(scope="module")
def no_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use no engines, and a separate cache."""
    # It imports PyTorch, which most tests do without.
    from tests.helpers import without_openvino  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        without_openvino(patch)
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process_of(url: str) -> psutil.Process:
    """The `foursight serve` process of a server that these tests started."""
    return psutil.Process(_pids[url])


def log_of(url: str) -> str:
    """What a server that these tests started has printed."""
    return _logs[url].read_text()


def kill_worker(url: str, task: str) -> None:
    """Kill the worker process of a task, of the server at this URL only, and wait for its end."""
    family = process_of(url).children(recursive=True)
    (worker,) = [one for one in family if f":{task}:" in "".join(one.cmdline())]
    worker.kill()
    # Until it has ended, its sockets accept requests that are never answered.
    assert gone([worker.pid])


class Running:
    """A `foursight serve` process that is ready. The context ends it with SIGTERM; its output is in `log`."""

    def __init__(self, port: int, log: Path, *options: str, scheme: str = "http", **environment: str) -> None:
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.log = log
        self._command = [sys.executable, "-m", "foursight", "serve", "--port", str(port), *options]
        self._environment = os.environ | environment

    def __enter__(self) -> "Running":
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        _pids[self.url], _logs[self.url] = self.process.pid, self.log
        while "Press Ctrl-C to stop." not in self.log.read_text():
            try:
                self.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is not None:
            return
        family = family_of(self.process.pid)
        self.process.terminate()
        self.process.wait(timeout=60)
        # Even after a failed test, it must end in order and leave nothing behind.
        assert self.process.returncode == 0
        assert gone(family)
        assert self.messages()[-2:] == ["Stopping ...", "Stopped."]

    def messages(self) -> list[str]:
        """What the server has printed since it was ready, but for the lines of requests."""
        lines = self.log.read_text().splitlines()
        (ready,) = [number for number, line in enumerate(lines) if "Press Ctrl-C to stop." in line]
        events = [json.loads(line)["event"] if line.startswith("{") else line for line in lines[ready + 1 :]]
        return [event for event in events if event != "request"]


def family_of(pid: int) -> list[int]:
    """The process ids of a process and its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def gone(family: list[int]) -> bool:
    """Whether all processes end within 30 seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(_is_alive(pid) for pid in family):
            return True
        time.sleep(0.1)
    return False


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
