"""Watches the processes of a running server, and says in one line on standard error what has ended.

Serve starts its router, its controller and the workers again. Ray's raylet and GCS cannot be started again: without
them the server answers nothing or not for long, so it ends, and what has started it can start it again.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import psutil

INTERVAL_S = 1.0
# A process that is stopped for longer (SIGSTOP, a debugger) counts as ended.
STOPPED_S = 10.0
_VITAL = {"raylet": "Ray's raylet", "gcs_server": "Ray's GCS"}
# The beginnings of the titles that Ray gives to its processes.
_RESTARTED = {
    "ray::ServeController": "Serve's controller",
    "ray::HAProxyManager": "the router's manager",
}
_WORKER = "ray::ServeReplica:"


class ServerFailed(Exception):
    """A part of the server has ended that cannot be started again; the message is one line for a person."""


def watch(stop: threading.Event) -> None:
    """Wait until `stop` is set. Raises ServerFailed if a vital process of this server ends or is stopped."""
    this = psutil.Process()
    vital = {process: _VITAL[process.name()] for process in this.children() if process.name() in _VITAL}
    expected = _count(this.children(recursive=True))
    missing: dict[str, float] = {}
    stopped_since: dict[psutil.Process, float] = {}
    while not stop.wait(INTERVAL_S):
        for process, name in vital.items():
            _require(process, name, stopped_since)
        present = _count(this.children(recursive=True))
        for name, count in expected.items():
            if present[name] < count and name not in missing:
                missing[name] = time.monotonic()
                _say(f"{name} has ended and is started again.")
            elif present[name] >= count and name in missing:
                _say(f"{name} runs again after {time.monotonic() - missing.pop(name):.0f} s.")


def _require(process: psutil.Process, name: str, stopped_since: dict[psutil.Process, float]) -> None:
    """Raise ServerFailed if a process has ended, or has been stopped for STOPPED_S."""
    status = psutil.STATUS_DEAD
    with suppress(psutil.NoSuchProcess):
        status = process.status()
    if status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE):
        raise ServerFailed(f"{name} (process {process.pid}) has ended.")
    if status != psutil.STATUS_STOPPED:
        stopped_since.pop(process, None)
    elif time.monotonic() - stopped_since.setdefault(process, time.monotonic()) > STOPPED_S:
        raise ServerFailed(f"{name} (process {process.pid}) has been stopped for {STOPPED_S:.0f} s.")


def _count(processes: Iterable[psutil.Process]) -> Counter[str]:
    """Return the number of processes of each part that Serve starts again."""
    parts: Counter[str] = Counter()
    for process in processes:
        with suppress(psutil.Error):
            if process.name() == "haproxy":
                # While it reads a new configuration, there are several.
                parts["the router"] = 1
                continue
            title = process.cmdline()[0] if process.cmdline() else ""
            if title.startswith(_WORKER):
                parts[f"the worker of {title.split(':')[3]!r}"] += 1
            parts.update(part for beginning, part in _RESTARTED.items() if title.startswith(beginning))
    return parts


def _say(message: str) -> None:
    print(f"foursight serve: {message}", file=sys.stderr, flush=True)
