"""The servers that are compared, each in its own processes on loopback.

All are started first. A server that is not being measured is suspended (SIGSTOP), so it uses memory but no CPU time.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from foursight.clients import benchmark
from foursight.models.engines import environment
from loadtests.peers import results

ROOT = Path(__file__).parent.parent.parent
PEERS = ("fastapi", "litserve", "bentoml", "rayserve")
NAMES = ("limit", "foursight", *(name + inside for inside in ("", "+engine") for name in PEERS))
READY_S = 120
# Seconds for a resumed server to notice that time has passed.
SETTLE_S = 1.0
BOUNDARY = "photo-boundary"

Figures = dict[str, float]


def form(photo: bytes) -> bytes:
    """Return an image as the field `image` of multipart/form-data, the one format that all servers accept."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
    return head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def answer_of(content: bytes) -> dict[str, Any]:
    """Return the answer in a response; BentoML's batchable endpoints return a list of one."""
    value = json.loads(content)
    answer: dict[str, Any] = value[0] if isinstance(value, list) else value
    return answer


def is_answer(content: bytes) -> bool:
    """Return whether a response has predictions."""
    try:
        return isinstance(answer_of(content)["predictions"], list)
    except (ValueError, LookupError, TypeError):
        return False


@dataclass(frozen=True)
class Load:
    """The load that all servers are measured with: a task and image files."""

    task: str
    photos: tuple[Path, ...]


class Processes:
    """A process and its descendants."""

    def __init__(self, words: list[str], log: Path, environment: dict[str, str], **pipes: Any) -> None:
        pipes.setdefault("stdout", log.open("wb"))
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        self.log = log.with_suffix(".err")
        self.first = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=environment,
            stderr=self.log.open("wb"),
            start_new_session=True,
            **pipes,
        )

    def all(self) -> list[psutil.Process]:
        """Return the processes that are alive."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.first.pid)
            return [first, *first.children(recursive=True)]
        return []

    def rest(self) -> None:
        """Suspend all processes, parents first, so that none sees another one stop."""
        self._send(signal.SIGSTOP)

    def wake(self) -> None:
        """Resume all processes."""
        self._send(signal.SIGCONT)

    def end(self) -> None:
        """Terminate the processes, and kill those that do not end."""
        self.wake()
        known = self.all()
        self.first.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.first.wait(20)
        for process in known:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(known, timeout=10)

    def _send(self, number: int) -> None:
        for process in self.all():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


class Server:
    """An HTTP server."""

    def __init__(self, name: str, load: Load, port: int, folder: Path) -> None:
        peer, _, engine = name.partition("+")
        words = [f"loadtests.peers.{peer}", "--task", load.task, "--port", str(port)]
        words += ["--engine"] if engine else []
        # The environment of Foursight's workers belongs to the engine.
        variables = dict(environment.ENVIRONMENT) if engine else {}
        path = "/predict"
        if peer == "foursight":
            words = ["foursight", "serve", "--tasks", load.task, "--port", str(port)]
            path = f"/v1/{load.task}"
        elif peer == "bentoml":
            words = ["bentoml", "serve", "loadtests.peers.bentoml:Peer", "--host", "127.0.0.1", "--port", str(port)]
            variables |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "bentoml")}
            variables |= {"PEER_TASK": load.task, "PEER_ENGINE": str(int(bool(engine)))}
        bodies = [form(photo.read_bytes()) for photo in load.photos]
        media_type = f"multipart/form-data; boundary={BOUNDARY}"
        self.target = benchmark.Target(f"http://127.0.0.1:{port}{path}", bodies, media_type, is_answer)
        self.processes = Processes(words, folder / f"{name}.log", variables)

    def wait(self) -> None:
        """Wait for the first answer. Raises TimeoutError, or RuntimeError if the server has ended."""
        deadline = time.monotonic() + READY_S
        while not self._is_ready():
            if self.processes.first.poll() is not None:
                raise RuntimeError(f"{self.target.url} has ended: {self.processes.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.target.url} does not answer: {self.processes.log.read_text()[-2000:]}")
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        try:
            return bool(self.answers())
        except OSError:
            return False

    def answers(self) -> list[dict[str, Any]]:
        """Return the server's answer for each image."""
        found = []
        for body in self.target.images:
            request = Request(self.target.url, body, {"Content-Type": self.target.media_type})
            with urlopen(request, timeout=60) as response:
                found.append(answer_of(response.read()))
        return found

    def measure(self, connections: int, seconds: float) -> Figures:
        """Return answers per second, and latencies in milliseconds."""
        samples = asyncio.run(benchmark.closed_loop(self.target, connections, seconds))
        found = benchmark.report("", samples, seconds)
        spent = sum(sample.latency for sample in samples)
        rate = results.rate(connections, found.answered, spent)
        return {"rate": rate, "p50": found.p50, "p99": found.p99, "failed": found.failed + found.refused}


class Limit:
    """The process without HTTP (limit.py), with the interface of Server."""

    def __init__(self, load: Load, folder: Path) -> None:
        words = ["loadtests.peers.limit", load.task, *map(str, load.photos)]
        pipe = subprocess.PIPE
        self._is_loaded = False
        self.processes = Processes(words, folder / "limit.log", environment.ENVIRONMENT, stdin=pipe, stdout=pipe)

    def wait(self) -> None:
        """Wait until the model is loaded."""
        if not self._is_loaded:
            self._read()
            self._is_loaded = True

    def measure(self, connections: int, seconds: float) -> Figures:
        """As `Server.measure`."""
        assert self.processes.first.stdin is not None
        self.processes.first.stdin.write(f"{connections} {seconds}\n".encode())
        self.processes.first.stdin.flush()
        return {**self._read(), "failed": 0}

    def _read(self) -> Figures:
        assert self.processes.first.stdout is not None
        line: Figures = json.loads(self.processes.first.stdout.readline())
        return line


def start(name: str, load: Load, port: int, folder: Path) -> Server | Limit:
    """Start a server by its name in NAMES, without waiting for it."""
    return Limit(load, folder) if name == "limit" else Server(name, load, port, folder)
