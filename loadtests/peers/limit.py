"""The limit: decode, prepare, predict and finish in one process without HTTP, for a number of images in flight.

Each line on standard input, `CONNECTIONS SECONDS`, is answered with a line of JSON. A pool decodes while this thread
computes what is ready, up to MAX_BATCH images, as Foursight's worker does.
"""

import json
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from foursight import models
from foursight.clients.benchmark import WARM_UP_S, quantile
from foursight.models.catalogue import Task
from foursight.models.engines import devices, environment
from foursight.models.image import decode_for
from loadtests.peers import results

MAX_BATCH = 8


class Limit:
    """A task and the images it is measured with."""

    def __init__(self, task: Task, photos: list[bytes]) -> None:
        self._task = task
        self._photos = photos
        self._request = task.resolve(task.options())

    def prepare(self, turn: int) -> Any:
        """Return the network's input."""
        return self._task.prepare(*decode_for(self._photos[turn % len(self._photos)], self._task.short_side))

    def answer(self, prepared: list[Any]) -> None:
        """Compute the results of prepared images."""
        for output in self._task.predict([(one, self._request) for one in prepared]):
            self._task.finish(output, self._request)

    def measure(self, connections: int, seconds: float) -> list[float]:
        """Return the sorted milliseconds of each image, without those of the first WARM_UP_S seconds."""
        start = perf_counter()
        found: list[tuple[float, float]] = []
        if connections == 1:
            for turn in count():
                if (due := perf_counter()) > start + WARM_UP_S + seconds:
                    break
                self.answer([self.prepare(turn)])
                found.append((due, perf_counter()))
        else:
            self._pipeline(connections, start + WARM_UP_S + seconds, found)
        return sorted(1000 * (end - due) for due, end in found if due > start + WARM_UP_S)

    def _pipeline(self, connections: int, stop: float, found: list[tuple[float, float]]) -> None:
        turns = count()
        under_way: dict[Future[Any], float] = {}
        with ThreadPoolExecutor(environment.available_cpus()) as pool:
            for _ in range(connections):
                under_way[pool.submit(self.prepare, next(turns))] = perf_counter()
            while under_way:
                ready = list(wait(under_way, return_when=FIRST_COMPLETED).done)[:MAX_BATCH]
                self.answer([future.result() for future in ready])
                now = perf_counter()
                found.extend((under_way.pop(future), now) for future in ready)
                if now < stop:
                    for _ in ready:
                        under_way[pool.submit(self.prepare, next(turns))] = perf_counter()


def main() -> None:
    """Load the task in the first argument; the others are image files."""
    devices.share_cores("cpu")
    limit = Limit(models.load(sys.argv[1]), [Path(name).read_bytes() for name in sys.argv[2:]])
    print("{}", flush=True)
    for line in sys.stdin:
        connections, seconds = line.split()
        found = limit.measure(int(connections), float(seconds))
        rate = results.rate(int(connections), len(found), sum(found) / 1000)
        print(json.dumps({"rate": rate, "p50": quantile(found, 0.5), "p99": quantile(found, 0.99)}), flush=True)


if __name__ == "__main__":
    main()
