"""Measure the share of the bare model's throughput that reaches a client: HTTP against decode + model in this process.

    foursight serve &
    python loadtests/ratio.py --task classify --photo photo.jpg

The limit is one process with the server's number of threads that decodes, prepares, predicts and finishes one image
after another. The server is measured with 1 and 16 connections and the same image. Rounds are interleaved, because a
shared machine's speed drifts; the medians of the rounds and the spread of the ratios are printed.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from foursight import models
from foursight.clients import benchmark
from foursight.models.catalogue import Task
from foursight.models.engines import devices, environment
from foursight.models.image import decode_for


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--task", default="classify", choices=models.TASKS)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    chosen = parser.parse_args()
    # The environment of the server's workers.
    environment.require()
    body = chosen.photo.read_bytes()
    devices.share_cores("cpu")
    task = models.load(chosen.task)
    ways: dict[str, Callable[[], float]] = {"bare": lambda: bare(task, body, chosen.seconds)}
    for count in chosen.connections:
        ways[f"HTTP, {count} connections"] = lambda count=count: asyncio.run(  # type: ignore[misc]
            over_http(f"{chosen.url}/v1/{chosen.task}", body, count, chosen.seconds)
        )
    for measure in ways.values():
        measure()  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, measure in ways.items():
            rates[name].append(measure())
    limit = statistics.median(rates["bare"])
    print(f"{chosen.task}, {chosen.photo.name}, {len(body):,} bytes, {os.cpu_count()} cores, {chosen.rounds} rounds")
    for name, found in rates.items():
        ratios = sorted(rate / base for rate, base in zip(found, rates["bare"], strict=True))
        median = statistics.median(found)
        print(f"{name:22} {median:8.1f} images/s   {median / limit:.2f} of bare ({ratios[0]:.2f}..{ratios[-1]:.2f})")


def bare(task: Task, body: bytes, seconds: float) -> float:
    """Return images per second of decode + model in this process, one after another."""
    request = task.resolve(task.options())
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        (output,) = task.predict([(task.prepare(*decode_for(body, task.short_side)), request)])
        task.finish(output, request)
        done += 1
    return done / (time.perf_counter() - start)


async def over_http(url: str, body: bytes, connections: int, seconds: float) -> float:
    """Return answers per second over keep-alive connections; each sends its next request as soon as it is answered."""
    samples = await benchmark.closed_loop(benchmark.Target(url, [body]), connections, seconds)
    found = benchmark.report("", samples, seconds)
    if found.failed or found.refused:
        raise SystemExit(f"the server refused or failed: {sorted({sample.status for sample in samples})}")
    return found.rate


if __name__ == "__main__":
    main()
