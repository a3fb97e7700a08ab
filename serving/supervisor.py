"""Watches the processes of a running server, and says in one line on standard error what has ended or is stopped.

Serve starts its router, its controller and the workers again. Ray's raylet and GCS cannot be started again: without
them the server answers nothing or not for long, so it ends, and what has started it can start it again.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from foursight.schema.readiness import Fault
from foursight.serving.ray_internals import environment

INTERVAL_S = 1.0
# A process that is stopped for longer (SIGSTOP) counts as ended, and is killed. Serve itself would need two minutes.
STOPPED_S = 10.0
_VITAL = {"raylet": "Ray's raylet", "gcs_server": "Ray's GCS"}
_ROUTER = "the router"
# The beginnings of the titles that Ray gives to its processes.
_RESTARTED = {
    "ray::ServeController": "Serve's controller",
    "ray::HAProxyManager": "the router's manager",
}
_WORKER = "ray::ServeReplica:"
# A file in the server's folder, from which the gateway reads the present faults.
_FILE = "faults.json"
_FAULTS = TypeAdapter(list[Fault])


class ServerFailed(Exception):
    """A part of the server has ended that cannot be started again; the message is one line for a person."""


def watch(stop: threading.Event) -> None:
    """Wait until `stop` is set. Raises ServerFailed if a vital process of this server ends or is stopped."""
    this = psutil.Process()
    vital = {process: _VITAL[process.name()] for process in this.children() if process.name() in _VITAL}
    expected = _count(_parts(this.children(recursive=True)))
    missing: dict[str, Fault] = {}
    stopped_since: dict[psutil.Process, float] = {}
    while not stop.wait(INTERVAL_S):
        for process, name in vital.items():
            if not _is_alive(process):
                raise ServerFailed(f"{name} (process {process.pid}) has ended.")
            if _is_stuck(process, stopped_since):
                raise ServerFailed(f"{name} (process {process.pid}) has been stopped for {STOPPED_S:.0f} s.")
        parts = _parts(this.children(recursive=True))
        for process, name in parts.items():
            if _is_stuck(process, stopped_since):
                say(f"{name} (process {process.pid}) has been stopped for {STOPPED_S:.0f} s and is killed.")
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        present = _count(parts)
        for name, count in expected.items():
            if present[name] < count and name not in missing:
                missing[name] = fault(name, "has ended and is started again")
                say(f"{name} {missing[name].state}.")
                _write(missing.values())
            elif present[name] >= count and name in missing:
                say(f"{name} runs again after {(_now() - missing.pop(name).since).total_seconds():.0f} s.")
                _write(missing.values())


def fault(part: str, state: str) -> Fault:
    """Return a fault that is noticed now."""
    return Fault(part=part, state=state, since=_now())


def faults() -> list[Fault]:
    """Return the present faults of the server that this process belongs to."""
    try:
        return _FAULTS.validate_json(_file().read_bytes())
    except FileNotFoundError:
        return []


def worker_of(task: str) -> str:
    """Return the name of the part that answers a task."""
    return f"the worker of {task!r}"


def _write(found: Collection[Fault]) -> None:
    new = _file().with_suffix(".new")
    # As for a standard error that cannot be written to.
    with suppress(OSError):
        new.write_bytes(_FAULTS.dump_json(list(found)))
        new.replace(_file())


def _file() -> Path:
    return Path(os.environ[environment.CONFIG_FILE]).parent / _FILE


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_stuck(process: psutil.Process, stopped_since: dict[psutil.Process, float]) -> bool:
    """Return whether a process has been stopped for STOPPED_S."""
    status = psutil.STATUS_DEAD
    with suppress(psutil.NoSuchProcess):
        status = process.status()
    if status != psutil.STATUS_STOPPED:
        stopped_since.pop(process, None)
        return False
    return time.monotonic() - stopped_since.setdefault(process, time.monotonic()) > STOPPED_S


def _parts(processes: Iterable[psutil.Process]) -> dict[psutil.Process, str]:
    """Return the processes that Serve starts again, each with the part that it belongs to."""
    parts: dict[psutil.Process, str] = {}
    for process in processes:
        with suppress(psutil.Error):
            if process.name() == "haproxy":
                parts[process] = _ROUTER
                continue
            title = process.cmdline()[0] if process.cmdline() else ""
            if title.startswith(_WORKER):
                parts[process] = worker_of(title.split(":")[3])
            elif known := [part for beginning, part in _RESTARTED.items() if title.startswith(beginning)]:
                parts[process] = known[0]
    return parts


def _count(parts: dict[psutil.Process, str]) -> Counter[str]:
    """Return the number of processes of each part."""
    counts = Counter(parts.values())
    # While it reads a new configuration, there are several.
    counts[_ROUTER] = min(counts[_ROUTER], 1)
    return counts


def say(message: str) -> None:
    """Print a line about the server on standard error."""
    # A standard error that cannot be written to, as on a full disk, is no reason to end.
    with suppress(OSError):
        print(f"foursight serve: {message}", file=sys.stderr, flush=True)
