"""Requests at a bounded rate, each of whose responses is checked."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import httpx

from loadtests.chaos.answers import Expected, Verdict, cause_of, judge
from loadtests.chaos.mixture import Ask

# Longer than the server needs at its limits of the queue, shorter than the router's own.
TIMEOUT_S = 60.0
# So many requests of each task at a time, so that there are batches.
THREADS = 2


@dataclass(frozen=True)
class Sample:
    """A request that was sent, from `start` to `end` in seconds of the monotonic clock."""

    name: str
    task: str
    start: float
    end: float
    verdict: Verdict


class NotRight(Exception):
    """The quiet server answers wrong."""


def new_client(url: str, timeout_s: float = TIMEOUT_S) -> httpx.Client:
    """Return a client that opens a connection for each request, as a reused one may be closed at any time."""
    return httpx.Client(base_url=url, timeout=timeout_s, limits=httpx.Limits(max_keepalive_connections=0))


def send(client: httpx.Client, ask: Ask) -> Sample:
    """Send a request that has `expected`, and judge the response."""
    assert ask.expected is not None
    start = time.monotonic()
    try:
        response = client.request(ask.method, ask.path, content=ask.content, headers=ask.headers)
        verdict = judge(ask.expected, response.status_code, response.content)
    except httpx.HTTPError as error:
        verdict = Verdict("failure", cause_of(error))
    return Sample(ask.name, ask.task, start, time.monotonic(), verdict)


def with_references(client: httpx.Client, asks: Sequence[Ask]) -> list[Ask]:
    """Return the requests with what is expected, taken from the server where it is not known.

    Raises NotRight if the server's second answer differs from the first, or if an error is not the known one.
    """
    found = []
    for ask in asks:
        if ask.expected is None:
            response = client.request(ask.method, ask.path, content=ask.content, headers=ask.headers)
            if response.status_code != 200:
                raise NotRight(f"{ask.name}: {response.status_code} {response.text[:200]}")
            found.append(replace(ask, expected=Expected(200, response.json())))
        else:
            found.append(ask)
        if (verdict := send(client, found[-1]).verdict).kind != "right":
            raise NotRight(f"{ask.name}: {verdict.cause}")
    return found


class Traffic:
    """Sends the requests at random while the context lasts, `rate` per second in all, equally many of each task."""

    def __init__(self, url: str, asks: Sequence[Ask], rate: float, seed: int) -> None:
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        tasks = list(dict.fromkeys(ask.task for ask in asks))
        pause_s = THREADS * len(tasks) / rate
        self._threads = [
            threading.Thread(
                target=self._ask,
                args=(
                    url,
                    [ask for ask in asks if ask.task == task],
                    pause_s,
                    random.Random(f"{seed} {task} {number}"),
                ),
            )
            for task in tasks
            for number in range(THREADS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, asks: Sequence[Ask], pause_s: float, chance: random.Random) -> None:
        with new_client(url) as client:
            while not self._stop.wait(chance.uniform(0.5, 1.5) * pause_s):
                self.samples.append(send(client, chance.choice(asks)))
