"""The faults: what is killed, stopped, filled and flooded. Only processes of the server under test are touched."""

import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import psutil

from loadtests import hostile
from loadtests.chaos.server import Server, by_role

# Loads are sent again and again for this long.
FLOOD_S = 5.0
CONNECTIONS = 1200
# The limit of connections counts by address, and the traffic comes from 127.0.0.1.
FLOOD_ADDRESS = "127.0.0.2"
# The role of the worker that a fault is for, whatever its task.
WORKER = "worker"
# A context in which a fault lasts, and in which the answers to a flood are counted by their statuses.
Put = Callable[[Server, str], AbstractContextManager[Counter[str]]]


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `put` gets the server and a task.

    `until` says how long it lasts: not at all (what was killed stays dead, a flood is waited for), until the server
    shows that it has noticed, or until the server has recovered by itself. `ends_server`: the server ends, as it
    promises, and is started again.
    """

    text: str
    put: Put
    until: Literal["at once", "noticed", "recovered"] = "at once"
    ends_server: bool = False


def killed(role: str) -> Put:
    """Return a fault that kills all processes of a role."""

    @contextmanager
    def put(server: Server, task: str) -> Iterator[Counter[str]]:
        processes = _processes(server, role, task)
        for process in processes:
            process.kill()
        # Until they have ended, their sockets accept requests that are never answered.
        psutil.wait_procs(processes, timeout=30)
        yield Counter()

    return put


def stopped(role: str) -> Put:
    """Return a fault that stops all processes of a role, and at its end lets those that still exist go on."""

    @contextmanager
    def put(server: Server, task: str) -> Iterator[Counter[str]]:
        processes = _processes(server, role, task)
        try:
            for process in processes:
                process.suspend()
            yield Counter()
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    return put


def limited(roles: Sequence[str], limit: int, value: Callable[[psutil.Process], int]) -> Put:
    """Return a fault that lowers a resource limit of all processes of some roles, and restores it at its end."""

    @contextmanager
    def put(server: Server, task: str) -> Iterator[Counter[str]]:
        processes = [process for role in roles for process in _processes(server, role, task)]
        before = [(process, process.rlimit(limit)) for process in processes]
        try:
            for process, (_, hard) in before:
                process.rlimit(limit, (value(process), hard))
            yield Counter()
        finally:
            for process, limits in before:
                with suppress(psutil.NoSuchProcess):
                    process.rlimit(limit, limits)

    return put


def flood(number: int) -> Put:
    """Return a fault that sends one of hostile.py's loads, again and again for FLOOD_S."""

    @contextmanager
    def put(server: Server, task: str) -> Iterator[Counter[str]]:
        load = list(hostile.loads(server.url).values())[number]
        deadline = time.monotonic() + FLOOD_S

        def repeat(one: Callable[[], str]) -> Counter[str]:
            statuses = Counter([one()])
            while time.monotonic() < deadline:
                statuses[one()] += 1
            return statuses

        statuses: Counter[str] = Counter()
        with ThreadPoolExecutor(len(load)) as pool:
            for found in pool.map(repeat, load):
                statuses.update(found)
        yield statuses

    return put


@contextmanager
def connections(server: Server, task: str) -> Iterator[Counter[str]]:
    """Hold many connections that have sent half a request, for FLOOD_S."""
    parts = urlsplit(server.url)
    address = (parts.hostname or "", parts.port or 80)
    with ExitStack() as stack:
        callers = []
        for _ in range(CONNECTIONS):
            with suppress(OSError):
                caller = socket.create_connection(address, 5, (FLOOD_ADDRESS, 0))
                callers.append(stack.enter_context(caller))
                caller.sendall(b"POST /v1/classify HTTP/1.1\r\n")
        time.sleep(FLOOD_S)
        closed = sum(map(_is_closed, callers)) + CONNECTIONS - len(callers)
    yield Counter({"closed": closed, "held": CONNECTIONS - closed})


def _is_closed(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return caller.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _processes(server: Server, role: str, task: str) -> list[psutil.Process]:
    found = by_role(server.root).get(task if role == WORKER else role, [])
    if not found:
        raise RuntimeError(f"the server has no process {role}")
    return found


FAULTS = {
    "kill-worker": Fault("a task's worker is killed", killed(WORKER)),
    "kill-gateway": Fault("the gateway is killed", killed("gateway")),
    "kill-router": Fault("HAProxy is killed", killed("router")),
    "kill-manager": Fault("the actor that runs HAProxy is killed", killed("manager")),
    "kill-controller": Fault("Serve's controller is killed", killed("controller")),
    "kill-raylet": Fault("the raylet is killed", killed("raylet"), ends_server=True),
    "kill-gcs": Fault("the GCS is killed", killed("GCS"), ends_server=True),
    "kill-server": Fault("`foursight serve` itself is killed", killed("server"), ends_server=True),
    "pause-worker": Fault("a task's worker is stopped until that is noticed", stopped(WORKER), until="noticed"),
    "pause-router": Fault("HAProxy is stopped until that is noticed", stopped("router"), until="noticed"),
    "stuck-worker": Fault("a task's worker is stopped for good", stopped(WORKER), until="recovered"),
    "stuck-router": Fault("HAProxy is stopped for good", stopped("router"), until="recovered"),
    "stuck-gcs": Fault("the GCS is stopped for good", stopped("GCS"), ends_server=True),
    "no-files": Fault(
        "a task's worker can open no more files",
        limited([WORKER], resource.RLIMIT_NOFILE, psutil.Process.num_fds),
        until="noticed",
    ),
    "full-disk": Fault(
        "no file of the server's can grow",
        limited(["server", "gateway", WORKER], resource.RLIMIT_FSIZE, lambda process: 0),
        until="noticed",
    ),
    "bombs": Fault("progressive JPEGs of 500 scans, 8 at a time", flood(0)),
    "slow-bodies": Fault("200 bodies of one byte a second", flood(1)),
    "layers": Fault("200 tables of layers", flood(2)),
    "large-images": Fault("PNGs of 49 megapixels, 40 at a time", flood(3)),
    "connections": Fault(f"{CONNECTIONS} connections of one address", connections),
}
