"""An idle server, a server near and beyond its limit, and large images: parts of `loadtests.performance`.

Memory is the proportional set size (PSS) of all processes of the server, which counts shared pages once; for a worker
it is the peak (VmHWM). Linux only.
"""

import asyncio
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from foursight.clients import benchmark
from foursight.schema.tasks import TASKS
from loadtests.peers import servers
from loadtests.peers.servers import Processes

# Seconds after the start until a server counts as idle, and seconds for which it is then observed.
REST_S, IDLE_S = 20.0, 60.0
CONNECTIONS = 16
KNEE_S = 20.0
# The rates offered in the open loop, relative to the knee's rate, and for how many seconds.
OFFERED = ((0.7, 300.0), (1.5, 60.0))
LARGE_S = 40.0

Row = dict[str, Any]


def idle(port: int) -> list[Row]:
    """Measure an idle server of all tasks: seconds to ready, share of a core, memory; first with an empty cache."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="cache-") as cache:
        for cached in (False, True):
            with _server(list(TASKS), port, {"XDG_CACHE_HOME": cache}) as (server, seconds):
                time.sleep(REST_S)
                before = _processor_seconds(server)
                time.sleep(IDLE_S)
                share = (_processor_seconds(server) - before) / IDLE_S
                row = {"cached": cached, "ready": seconds, "core": share, "processes": len(server.all())}
                rows.append(row | {"pss": _pss(server)})
    return rows


def open_loop(port: int, body: bytes) -> list[Row]:
    """Measure classify: the rate of a closed loop, then shares and multiples of it in an open loop."""
    with _server(["classify"], port) as (server, _):
        target = benchmark.Target(f"http://127.0.0.1:{port}/v1/classify", [body])
        knee = benchmark.report("knee", asyncio.run(benchmark.closed_loop(target, CONNECTIONS, KNEE_S)), KNEE_S)
        rows = [_row(knee, 1.0, [], server)]
        for part, seconds in OFFERED:
            samples = asyncio.run(benchmark.open_loop(target, part * knee.rate, seconds))
            refusals = sorted(1000 * one.latency for one in samples if one.status == 503)
            rows.append(_row(benchmark.report("open", samples, seconds), part, refusals, server))
        return rows


def large(port: int, body: bytes) -> list[Row]:
    """Measure segment with images of 12 megapixels over CONNECTIONS connections: the worker's peak memory."""
    with _server(["segment"], port) as (server, _):
        target = benchmark.Target(f"http://127.0.0.1:{port}/v1/segment", [body])
        before = _peak(server, "segment")
        found = benchmark.report("", asyncio.run(benchmark.closed_loop(target, CONNECTIONS, LARGE_S)), LARGE_S)
        figures = {"rate": found.rate, "p50": found.p50, "failed": found.failed, "refused": found.refused}
        return [figures | {"bytes": len(body), "before": before, "peak": _peak(server, "segment")}]


def _row(found: benchmark.Report, part: float, refusals: list[float], server: Processes) -> Row:
    return {
        "offered": part,
        "seconds": found.seconds,
        "rate": found.rate,
        "p50": found.p50,
        "p99": found.p99,
        "refused": found.refused,
        "failed": found.failed,
        "refusal_p99": benchmark.quantile(refusals, 0.99),
        "pss": _pss(server),
    }


@contextmanager
def _server(
    tasks: list[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[tuple[Processes, float]]:
    """Yield the processes of a server that is ready, and the seconds until it was."""
    with tempfile.TemporaryDirectory(prefix="limits-") as folder:
        start = time.monotonic()
        words = ["foursight", "serve", "--port", str(port), "--tasks", ",".join(tasks)]
        started = Processes(words, Path(folder) / "server.log", environment or {})
        try:
            while not _is_ready(port):
                if started.first.poll() is not None or time.monotonic() - start > servers.READY_S:
                    raise RuntimeError(f"the server did not start: {started.log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield started, time.monotonic() - start
        finally:
            started.end()


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except (URLError, OSError):
        return False


def _processor_seconds(server: Processes) -> float:
    times = [one.cpu_times() for one in server.all()]
    return sum(one.user + one.system for one in times)


def _pss(server: Processes) -> float:
    """Return the PSS of all processes, in MiB."""
    return float(sum(one.memory_full_info().pss for one in server.all()) / 2**20)


def _peak(server: Processes, task: str) -> float:
    """Return the peak memory of a task's worker, in MiB."""
    (worker,) = (one for one in server.all() if f":{task}:" in " ".join(one.cmdline()))
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
