"""The server under test: its processes by their roles, their memory, and what it says."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psutil

from loadtests.memory import server_process

END_S = 60.0
OTHER = "others"
_BY_NAME = {"haproxy": "router", "raylet": "raylet", "gcs_server": "GCS"}
# The beginnings of the titles that Ray gives to its processes.
_BY_TITLE = {"ray::ServeController": "controller", "ray::HAProxyManager": "manager", "ray::ProxyActor": "proxy"}
_WORKER = "ray::ServeReplica:"


class Server(Protocol):
    """A running server. `said` has its lines on standard error with their times."""

    url: str
    said: list[tuple[float, str]]

    @property
    def root(self) -> psutil.Process:
        """The first process."""

    def has_ended(self) -> bool:
        """Return whether the first process has ended."""


class OwnServer:
    """A server that is started here, on a free port, and ended with the context, with all its processes."""

    def __init__(self, tasks: Sequence[str], port: int, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.said: list[tuple[float, str]] = []
        self._command = [sys.executable, "-m", "foursight", "serve", "--tasks", ",".join(tasks), "--port", str(port)]
        self._environment = os.environ | {"FOURSIGHT_MODELS_DIR": str(folder / "models")}
        self._log = folder / "log"
        self._known: set[psutil.Process] = set()

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        with self._log.open("ab") as log:
            self.root = psutil.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        threading.Thread(target=self._listen, args=(self.root.stderr,), daemon=True).start()

    def has_ended(self) -> bool:
        """As Server."""
        return self.root.poll() is not None

    def remember(self) -> None:
        """Remember the present processes, which `left_over` and `end` look for."""
        self._known |= set(family(self.root))

    def left_over(self) -> list[psutil.Process]:
        """Return the remembered processes that do not end within END_S, though the first one has."""
        _, alive = psutil.wait_procs(self._known, timeout=END_S)
        self._known.clear()
        return alive

    def end(self) -> None:
        """Stop the server, and kill what is left of it."""
        self.remember()
        for process in self._known:
            # A stopped process gets no SIGTERM.
            with suppress(psutil.NoSuchProcess):
                process.resume()
        if self.root.poll() is None:
            self.root.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.root.wait(END_S)
        for process in self._known:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self._known, timeout=END_S)

    def _listen(self, errors: Iterable[str]) -> None:
        for line in errors:
            self.said.append((time.monotonic(), line.strip()))


class OtherServer:
    """A server on this machine that somebody else has started. What it says is not seen."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = server_process(urlsplit(url).port or 80)
        self.said: list[tuple[float, str]] = []

    def has_ended(self) -> bool:
        """As Server."""
        return not self.root.is_running()


def family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and its descendants; nothing if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def role_of(name: str, title: str) -> str:
    """Return a process's role, from its name and the first word of its command line; a worker's is its task."""
    if title.startswith(_WORKER):
        return title.split(":")[3]
    by_title = next((role for beginning, role in _BY_TITLE.items() if title.startswith(beginning)), OTHER)
    return _BY_NAME.get(name, by_title)


def by_role(root: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of a server by their roles."""
    found: dict[str, list[psutil.Process]] = {}
    for process in family(root):
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            title = next(iter(process.cmdline()), "")
            role = "server" if process == root else role_of(process.name(), title)
            found.setdefault(role, []).append(process)
    return found


def memory(root: psutil.Process) -> Counter[str]:
    """Return the PSS of a server's processes by role, in MiB."""
    found: Counter[str] = Counter()
    for role, processes in by_role(root).items():
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                found[role] += round(process.memory_full_info().pss / 2**20)
    return found
