"""Compare each task's `predict` in PyTorch and on its engine, in one process.

    python -m research.engines --photo photo.jpg
    taskset -c 0 python -m research.engines --photo photo.jpg    # one core

Calls alternate, because a shared machine drifts. The medians of wall time and of CPU time are compared; on one core,
CPU time is reliable on a busy machine, too.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from foursight import models
from foursight.models.engines import engine, environment, rcnn

THREADS = {"PyTorch": environment.available_cpus(), "engine": 1}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(models.TASKS), choices=models.TASKS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    environment.require()
    image = models.decode(chosen.photo.read_bytes())
    print(f"{chosen.photo.name}, {environment.available_cpus()} cores, {chosen.rounds} rounds; ms per image")
    for name in chosen.tasks:
        tasks = {"PyTorch": in_pytorch(name), "engine": models.load(name)}
        for batch in chosen.batches:
            prepared = tasks["engine"].prepare(image)
            ways: dict[str, Callable[[], object]] = {
                way: partial(predict, task, [(prepared, task.resolve(task.options()))] * batch, THREADS[way])
                for way, task in tasks.items()
            }
            compare(f"{name}, batch of {batch}", ways, batch, chosen.rounds)


def predict(task: Any, photos: list[Any], threads: int) -> None:
    """Predict as a server's worker does with an engine, or without."""
    torch.set_num_threads(threads)
    task.predict(photos)


def in_pytorch(name: str) -> Any:
    """Load a task as if no engine were installed; torchvision pools the RoIs."""
    absent = mock.patch.object(engine, "has_openvino", return_value=False)
    with absent, mock.patch.object(rcnn, "install", return_value="float32"):
        return models.load(name)


def compare(title: str, ways: Mapping[str, Callable[[], object]], batch: int, rounds: int) -> None:
    """Print the medians of each way, and the ratio of the first to it, with the quartiles."""
    clock: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for call in ways.values():
        call()
    for _ in range(rounds):
        for way, call in ways.items():
            start, start_processor = time.perf_counter(), time.process_time()
            call()
            clock[way].append(1000 * (time.perf_counter() - start) / batch)
            processor[way].append(1000 * (time.process_time() - start_processor) / batch)
    for way in ways:
        cells = []
        for kind, found in (("clock", clock), ("processor", processor)):
            ratios = [one / other for one, other in zip(next(iter(found.values())), found[way], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{kind} {statistics.median(found[way]):7.1f}  x{middle:5.2f} ({low:.2f}..{high:.2f})")
        print(f"{title:22} {way:8} {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
