"""Measure where the time of a request goes and how it grows, and write docs/measurements/performance.md.

    python -m loadtests.performance steps sizes objects connections batches     # about 13 minutes
    python -m loadtests.performance page

The first command measures the parts that are named and stores the rows in loadtests/results/costs.json. The second
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
from PIL import Image, ImageOps

from foursight import models
from foursight.clients import benchmark
from foursight.models.engines import devices, environment
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
    """Measure the named parts, or make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=[*PARTS, "page"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="length of one measurement")
    parser.add_argument("--port", type=int, default=8480)
    parser.add_argument("--costs", type=Path, default=COSTS, help="where the rows are stored")
    chosen = parser.parse_args()
    environment.require()
    # SystemExit ends the server that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    devices.share_cores("cpu")
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
    """Measure one request at a time: the server's own times, and its last steps separately in this process."""
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
    """Measure images of four sizes: p50 over HTTP, and from decoding to result in this process, reduced and full."""
    rows: list[Row] = []
    for task in ("classify", "segment"):
        alone = models.load(task)
        bodies = {size: _photo(*size) for size in SIZES}
        with foursight(task, chosen.port) as target:
            for turn in range(chosen.rounds):
                for size, body in bodies.items():
                    one = replace(target, images=[servers.form(body)])
                    found = benchmark.report("", asyncio.run(benchmark.closed_loop(one, 1, chosen.seconds)), 1)
                    row = {"task": task, "round": turn, "width": size[0], "height": size[1], "bytes": len(body)}
                    rows.append(row | {"p50": found.p50, "decode": found.steps["decode"]} | _decodes(alone, body))
    return rows


def objects(chosen: argparse.Namespace) -> list[Row]:
    """Measure answers with more and more objects, each with its mask: twelve portraits on 640 x 480."""
    rows = []
    with foursight("segment", chosen.port) as target:
        body = servers.form(_crowd())
        for turn in range(chosen.rounds):
            for most in OBJECTS:
                url = f"{target.url}?score_threshold=0.05&max_detections={most}"
                counts: set[int] = set()
                one = replace(target, url=url, images=[body], is_answer=partial(_count, counts))
                found = benchmark.report("", asyncio.run(benchmark.closed_loop(one, 1, chosen.seconds)), 1)
                rows.append({"round": turn, "objects": counts.pop(), "p50": found.p50})
    return rows


def connections(chosen: argparse.Namespace) -> list[Row]:
    """Measure more and more connections, each of which sends its next request as soon as it is answered."""
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
    """Measure `predict` alone in this process: milliseconds per image by batch size."""
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
    """Yield a server of one task that is ready, with the images of the comparison with peers."""
    with tempfile.TemporaryDirectory(prefix="performance-") as name:
        folder = Path(name)
        server = servers.Server("foursight", servers.Load(task, make_photos(task, folder)), port, folder)
        try:
            server.wait()
            yield server.target
        finally:
            server.processes.end()


def _photo(width: int, height: int) -> bytes:
    """Return a JPEG of this size. Grain gives an enlarged image the file size and decoding time of a photo."""
    scaled = np.asarray(ImageOps.fit(photo("astronaut"), (width, height)), dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 6, scaled.shape)
    return jpeg(Image.fromarray((scaled + grain).clip(0, 255).astype(np.uint8)), quality=85)


def _crowd() -> bytes:
    """Return a JPEG in which the network finds about 80 objects with a low threshold."""
    picture, portrait = Image.new("RGB", (640, 480)), ImageOps.fit(photo("astronaut"), (160, 160))
    for left in range(0, 640, 160):
        for top in range(0, 480, 160):
            picture.paste(portrait, (left, top))
    return jpeg(picture, quality=90)


def _last_steps(task: Any, name: str) -> Row:
    """Return the milliseconds from the network's output to predictions, and from those to JSON, per image."""
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
    """Return the milliseconds from bytes to result in this process, decoded at a reduced and at the full size."""
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
    """Return the median time of a call in milliseconds, over `seconds` but at least three calls."""
    found: list[float] = []
    stop = perf_counter() + seconds
    while len(found) < 3 or perf_counter() < stop:
        start = perf_counter()
        call()
        found.append(1000 * (perf_counter() - start))
    return statistics.median(found)


if __name__ == "__main__":
    main()
