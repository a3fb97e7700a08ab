"""The servers that are compared, each in processes of its own on loopback, at rest unless it is measured.

All are started first. A server that is not measured has its processes stopped (SIGSTOP), so that it costs no processor
time at all; what it holds is memory.
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
# What a server that was stopped needs to notice that time has passed.
SETTLE_S = 1.0
BOUNDARY = "photo-boundary"

Figures = dict[str, float]


def form(photo: bytes) -> bytes:
    """A photo as the field `image` of multipart/form-data, the one form that all servers take."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
    return head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + photo + f"\r\n--{BOUNDARY}--\r\n".encode()


def answer_of(content: bytes) -> dict[str, Any]:
    """The answer in a response; BentoML's batchable endpoints give a list of one."""
    value = json.loads(content)
    answer: dict[str, Any] = value[0] if isinstance(value, list) else value
    return answer


def is_answer(content: bytes) -> bool:
    """Whether a response has predictions."""
    try:
        return isinstance(answer_of(content)["predictions"], list)
    except (ValueError, LookupError, TypeError):
        return False


@dataclass(frozen=True)
class Load:
    """What all are measured with: a task, and photos by their files."""

    task: str
    photos: tuple[Path, ...]


class Processes:
    """A process and all that it starts."""

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
        """Those that live."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.first.pid)
            return [first, *first.children(recursive=True)]
        return []

    def rest(self) -> None:
        """Stop them all, the first before its children, so that none sees another stop."""
        self._send(signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        self._send(signal.SIGCONT)

    def end(self) -> None:
        """Ask them to end, and kill those that do not."""
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
    """A server of HTTP."""

    def __init__(self, name: str, load: Load, port: int, folder: Path) -> None:
        peer, _, engine = name.partition("+")
        words = [f"loadtests.peers.{peer}", "--task", load.task, "--port", str(port)]
        words += ["--engine"] if engine else []
        # What Foursight sets for its workers belongs to the engine, and goes with it.
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
        """Return once it has answered. Raises TimeoutError, and RuntimeError where it has ended."""
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
        """Its answer for each photo."""
        found = []
        for body in self.target.photos:
            request = Request(self.target.url, body, {"Content-Type": self.target.media_type})
            with urlopen(request, timeout=60) as response:
                found.append(answer_of(response.read()))
        return found

    def measure(self, connections: int, seconds: float) -> Figures:
        """Answers per second, and latencies in milliseconds."""
        samples = asyncio.run(benchmark.closed_loop(self.target, connections, seconds))
        found = benchmark.report("", samples, seconds)
        spent = sum(sample.latency for sample in samples)
        rate = results.rate(connections, found.answered, spent)
        return {"rate": rate, "p50": found.p50, "p99": found.p99, "failed": found.failed + found.refused}


class Limit:
    """The process without HTTP (limit.py), with the face of a server."""

    def __init__(self, load: Load, folder: Path) -> None:
        words = ["loadtests.peers.limit", load.task, *map(str, load.photos)]
        pipe = subprocess.PIPE
        self._is_loaded = False
        self.processes = Processes(words, folder / "limit.log", environment.ENVIRONMENT, stdin=pipe, stdout=pipe)

    def wait(self) -> None:
        """Return once its model is loaded."""
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
    """Start one, by its name in NAMES; it is not ready yet."""
    return Limit(load, folder) if name == "limit" else Server(name, load, port, folder)
