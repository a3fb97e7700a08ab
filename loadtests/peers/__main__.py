"""Compare Foursight with other servers: the same weights, images, client and cores.

    make peers                                # installs, measures, and makes the page
    .venv/bin/python -m loadtests.peers       # all tasks and servers, five rounds: about 55 minutes
    .venv/bin/python -m loadtests.peers --tasks detect --servers limit foursight fastapi --seconds 2    # 10 minutes

Servers are started together and measured one at a time; the processes of the others are suspended meanwhile. Each must
first give the same answers as the model in this process. Rows are added to the file --out, from which `python -m
loadtests.performance page` makes docs/measurements/performance.md.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import ImageOps

from loadtests.peers import check, results, servers
from loadtests.photos import jpeg, photo

OUT = Path(__file__).parent.parent / "results" / "peers.json"
SIZES = {"classify": (500, 400), "detect": (640, 480), "segment": (640, 480)}
PHOTOS = ("chelsea", "coffee", "astronaut")
PACKAGES = ("torch", "torchvision", "openvino", "fastapi", "uvicorn", "litserve", "bentoml", "ray")


def main() -> None:
    """Measure, print, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--servers", nargs="+", default=list(servers.NAMES), choices=servers.NAMES)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="length of one measurement")
    parser.add_argument("--port", type=int, default=8480, help="the first port; each server takes one")
    parser.add_argument("--out", type=Path, default=OUT, help="the file that results are added to")
    chosen = parser.parse_args()
    # SystemExit ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    for task in chosen.tasks:
        run = describe(chosen.seconds)
        rows: list[results.Row] = []
        for found in measure(run["run"], task, chosen):
            rows += found
            # Written after each round, so that an interrupted run keeps its complete rounds.
            results.append(chosen.out, run, rows)
        print(f"\n{task}\n{results.table(rows, task, chosen.servers)}\n\n{results.goals(rows)}", flush=True)


def describe(seconds: float) -> dict[str, Any]:
    """Describe the machine and the versions of a run."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "run": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        "cpu": cpu.split(":")[1].strip(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "seconds": seconds,
        "versions": {name: version(name) for name in PACKAGES},
    }


def make_photos(task: str, folder: Path) -> tuple[Path, ...]:
    """Write public-domain photos as JPEG files in the size for this task."""
    paths = []
    for name in PHOTOS:
        path = folder / f"{name}.jpg"
        path.write_bytes(jpeg(ImageOps.fit(photo(name), SIZES[task]), quality=90))
        paths.append(path)
    return tuple(paths)


def measure(run: str, task: str, chosen: argparse.Namespace) -> Iterator[list[results.Row]]:
    """Start the servers, check their answers, and measure them in turn; yield the rows of each round."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True)))
        load = servers.Load(task, make_photos(task, folder))
        expected = check.reference(task, [path.read_bytes() for path in load.photos])
        running: dict[str, servers.Server | servers.Limit] = {}
        for index, name in enumerate(chosen.servers):
            start = time.monotonic()
            server = running[name] = servers.start(name, load, chosen.port + index, folder)
            stack.callback(server.processes.end)
            server.wait()
            if isinstance(server, servers.Server) and (lines := check.differences(task, expected, server.answers())):
                raise SystemExit(f"{name} does not answer as the model does:\n" + "\n".join(lines))
            server.processes.rest()
            print(f"{name}: ready after {time.monotonic() - start:.0f} s", file=sys.stderr)
        for turn in range(-1, chosen.rounds):
            # Every other round is in reverse order, so that drift favours no server. Round -1 is a warm-up for
            # caches, and for peers that learn from their load.
            order = chosen.servers if turn % 2 else chosen.servers[::-1]
            rows = [row for name in order for row in turn_of(run, turn, task, name, running[name], chosen)]
            if turn >= 0:
                yield rows


def turn_of(
    run: str, turn: int, task: str, name: str, server: servers.Server | servers.Limit, chosen: argparse.Namespace
) -> list[results.Row]:
    """Return one server's measurements in one round; none for the warm-up."""
    server.processes.wake()
    time.sleep(servers.SETTLE_S)
    server.wait()
    found = {}
    for count in chosen.connections:
        # With 16 connections an answer of the larger networks takes about five seconds. At the end of a measurement
        # fewer requests are in flight, which get more of the cores: in 4 s the rate came out three times too high.
        seconds = chosen.seconds * (10 if count > 1 and task != "classify" else 1)
        found[count] = server.measure(count, seconds if turn >= 0 else min(seconds, 1))
    server.processes.rest()
    if turn < 0:
        return []
    for count, figures in found.items():
        print(f"round {turn + 1}, {name}, {count}: {figures}", file=sys.stderr, flush=True)
    return [
        results.Row(run, turn, task, name, count, round(f["rate"], 2), f["p50"], f["p99"], int(f["failed"]))
        for count, f in found.items()
    ]


if __name__ == "__main__":
    main()
