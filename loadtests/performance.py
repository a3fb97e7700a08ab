"""Where the time goes, what it grows with, and the page that says so: docs/performance.md.

    python -m loadtests.performance steps sizes objects connections batches     # some 13 minutes
    python -m loadtests.performance page

The first measures, each part on its own if you like, and keeps the rows in loadtests/results/costs.json. The second
makes the page and its plots from them and from loadtests/results/peers.json (`python -m loadtests.peers`).
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from foursight import models
from foursight.clients import benchmark
from foursight.models.engines import engine, environment
from foursight.models.image import decode, decode_for
from foursight.serving.encoding import to_answer
from loadtests import limits, page
from loadtests.peers import servers
from loadtests.peers.__main__ import PHOTOS, describe, make_photos
from loadtests.peers.__main__ import SIZES as PHOTO_SIZES
from loadtests.photos import jpeg, photo

COSTS = Path(__file__).parent / "results" / "costs.json"
TASKS = ("classify", "detect", "segment")
SIZES = ((160, 120), (500, 400), (1632, 1224), (4000, 3000))
OBJECTS = (1, 2, 5, 10, 20, 40, 80)
CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (1, 2, 4, 8, 16)

Row = dict[str, Any]


def main() -> None:
    """Measure the parts that are named, or make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "page"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="length of one measurement")
    parser.add_argument("--port", type=int, default=8480)
    parser.add_argument("--costs", type=Path, default=COSTS, help="where the rows are kept")
    chosen = parser.parse_args()
    environment.require()
    # A server that was started ends with this process, however it ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    engine.share_cores(torch.device("cpu"))
    for part in chosen.parts:
        if part == "page":
            page.write(chosen.costs)
            continue
        kept = json.loads(chosen.costs.read_text()) if chosen.costs.exists() else {}
        kept[part] = {"made": describe(chosen.seconds), "rows": PARTS[part](chosen)}
        chosen.costs.parent.mkdir(exist_ok=True)
        chosen.costs.write_text(json.dumps(kept, indent=None).replace("{", "\n{") + "\n")
        print(f"{part}: {len(kept[part]['rows'])} rows", file=sys.stderr, flush=True)


def steps(chosen: argparse.Namespace) -> list[Row]:
    """One request at a time: the server's own times, and those of its last steps alone in this process."""
    rows: list[Row] = []
    for task in TASKS:
        with foursight(task, chosen.port) as target:
            alone = models.load(task)
            for turn in range(chosen.rounds):
                samples = asyncio.run(benchmark.closed_loop(target, 1, chosen.seconds))
                times = benchmark.report("", samples, chosen.seconds).steps
                latency = 1000 * statistics.fmean(sample.latency for sample in samples if sample.status == 200)
                rows.append({"task": task, "round": turn, "latency": latency} | times | _last_steps(alone, task))
    return rows


def sizes(chosen: argparse.Namespace) -> list[Row]:
    """Photos of four sizes: p50 over HTTP; in this process decode to result, the photo decoded reduced and whole."""
    rows: list[Row] = []
    for task in ("classify", "segment"):
        alone = models.load(task)
        bodies = {size: _photo(*size) for size in SIZES}
        with foursight(task, chosen.port) as target:
            for turn in range(chosen.rounds):
                for size, body in bodies.items():
                    one = replace(target, photos=[servers.form(body)])
                    found = benchmark.report("", asyncio.run(benchmark.closed_loop(one, 1, chosen.seconds)), 1)
                    row = {"task": task, "round": turn, "width": size[0], "height": size[1], "bytes": len(body)}
                    rows.append(row | {"p50": found.p50, "decode": found.steps["decode"]} | _decodes(alone, body))
    return rows


def objects(chosen: argparse.Namespace) -> list[Row]:
    """A picture of twelve portraits, 640 x 480, whose answer has more and more objects, each with its mask."""
    rows = []
    with foursight("segment", chosen.port) as target:
        body = servers.form(_crowd())
        for turn in range(chosen.rounds):
            for most in OBJECTS:
                url = f"{target.url}?score_threshold=0.05&max_detections={most}"
                counts: set[int] = set()
                one = replace(target, url=url, photos=[body], is_answer=partial(_count, counts))
                found = benchmark.report("", asyncio.run(benchmark.closed_loop(one, 1, chosen.seconds)), 1)
                rows.append({"round": turn, "objects": counts.pop(), "p50": found.p50})
    return rows


def connections(chosen: argparse.Namespace) -> list[Row]:
    """More and more connections, each asking again as soon as it is answered."""
    rows = []
    with foursight("classify", chosen.port) as target:
        for turn in range(chosen.rounds):
            for count in CONNECTIONS:
                samples = asyncio.run(benchmark.closed_loop(target, count, chosen.seconds))
                found = benchmark.report("", samples, chosen.seconds)
                figures = {"rate": found.rate, "p50": found.p50, "p99": found.p99, "refused": found.refused}
                rows.append({"round": turn, "connections": count, "failed": found.failed} | figures)
    return rows


def batches(chosen: argparse.Namespace) -> list[Row]:
    """The network alone, in this process: milliseconds a photo by the number computed together."""
    rows = []
    for task in TASKS:
        alone = models.load(task)
        prepared, request = alone.prepare(decode(_photo(640, 480))), alone.resolve(alone.options())
        for batch in BATCHES:
            alone.predict([(prepared, request)] * batch)
        for turn in range(chosen.rounds):
            for batch in BATCHES:
                milliseconds = _time(partial(alone.predict, [(prepared, request)] * batch), chosen.seconds / 4)
                rows.append({"task": task, "round": turn, "batch": batch, "ms": milliseconds / batch})
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "steps": steps,
    "sizes": sizes,
    "objects": objects,
    "connections": connections,
    "batches": batches,
    "idle": lambda chosen: limits.idle(chosen.port),
    "open_loop": lambda chosen: limits.open_loop(chosen.port, _photo(500, 400)),
    "large": lambda chosen: limits.large(chosen.port, _photo(4000, 3000)),
}


@contextmanager
def foursight(task: str, port: int) -> Iterator[benchmark.Target]:
    """A server of one task that is ready, with the photos that peers are measured with."""
    with tempfile.TemporaryDirectory(prefix="performance-") as name:
        folder = Path(name)
        server = servers.Server("foursight", servers.Load(task, make_photos(task, folder)), port, folder)
        try:
            server.wait()
            yield server.target
        finally:
            server.processes.end()


def _photo(width: int, height: int) -> bytes:
    """A JPEG of so many pixels. The grain makes one that was scaled up weigh, and decode, like a photo."""
    scaled = np.asarray(ImageOps.fit(photo("astronaut"), (width, height)), dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 6, scaled.shape)
    return jpeg(Image.fromarray((scaled + grain).clip(0, 255).astype(np.uint8)), quality=85)


def _crowd() -> bytes:
    """A JPEG in which the network finds some 80 objects, if it may be unsure of them."""
    picture, portrait = Image.new("RGB", (640, 480)), ImageOps.fit(photo("astronaut"), (160, 160))
    for left in range(0, 640, 160):
        for top in range(0, 480, 160):
            picture.paste(portrait, (left, top))
    return jpeg(picture, quality=90)


def _last_steps(task: Any, name: str) -> Row:
    """Milliseconds from the network's output to predictions, and from those to JSON; the mean of the peers' photos."""
    request = task.resolve(task.options())
    images = [ImageOps.fit(photo(one), PHOTO_SIZES[name]) for one in PHOTOS]
    outputs = task.predict([(task.prepare(image), request) for image in images])

    def finish() -> list[Any]:
        return [task.finish(output, request) for output in outputs]

    def encode() -> list[str]:
        answers = (to_answer(name, image.size, one, "rle") for image, one in zip(images, found, strict=True))
        return [answer.model_dump_json(exclude_none=True) for answer in answers]

    found = finish()
    return {"finish": _time(finish, 0.1) / len(images), "encode": _time(encode, 0.1) / len(images)}


def _decodes(task: Any, body: bytes) -> Row:
    """Milliseconds from bytes to result in this process: the photo reduced as it is decoded, and decoded whole."""
    request = task.resolve(task.options())

    def answer(photo: Callable[[], Any]) -> None:
        (output,) = task.predict([(photo(), request)])
        task.finish(output, request)

    reduced = partial(answer, lambda: task.prepare(*decode_for(body, task.short_side)))
    return {"reduced": _time(reduced, 0.3), "whole": _time(partial(answer, lambda: task.prepare(decode(body))), 0.3)}


def _count(counts: set[int], content: bytes) -> bool:
    counts.add(len(servers.answer_of(content)["predictions"]))
    return True


def _time(call: Callable[[], object], seconds: float) -> float:
    """The median of calls for so many seconds, three at the least; in milliseconds."""
    found: list[float] = []
    stop = perf_counter() + seconds
    while len(found) < 3 or perf_counter() < stop:
        start = perf_counter()
        call()
        found.append(1000 * (perf_counter() - start))
    return statistics.median(found)


if __name__ == "__main__":
    main()
