"""One real server for the whole session of tests, as `foursight serve` starts it, on a free port of loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.memory import server_process

MAX_QUEUE = 16


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of `server`; empty at its start."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[str]:
    """The base URL of a server with all four tasks of the tiny profile."""
    environment = {"FOURSIGHT_MAX_QUEUE": str(MAX_QUEUE), "FOURSIGHT_MODELS_DIR": str(models_dir)}
    with Running(free_port(), tmp_path_factory.mktemp("server") / "log", **environment) as running:
        yield running.url


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_worker(url: str, task: str) -> None:
    """Kill the process that computes a task, of the server at this address and of no other, and wait for its end."""
    family = server_process(int(url.rsplit(":", 1)[1])).children(recursive=True)
    (worker,) = [one for one in family if f":{task}:" in "".join(one.cmdline())]
    worker.kill()
    # Until it has ended its sockets are open, and take requests that nobody answers.
    worker.wait(timeout=60)


class Running:
    """A `foursight serve` process that is ready; it is ended with the context, and its output is kept in `log`."""

    def __init__(self, port: int, log: Path, *options: str, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._command = [sys.executable, "-m", "foursight", "serve", "--port", str(port), *options]
        self._environment = os.environ | environment

    def __enter__(self) -> "Running":
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        while "Ctrl-C stops it." not in self.log.read_text():
            try:
                self.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"the server did not start:\n{self.log.read_text()}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
