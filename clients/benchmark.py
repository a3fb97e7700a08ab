"""Measures a running server: answers per second and latency, for a fixed number of connections or a fixed rate.

A closed loop (so many connections, each asks again as soon as it is answered) shows what a server can do; it slows down
with the server, so that it hides how long users wait. An open loop shows that: requests leave at a fixed rate, whatever
comes back, and a request's latency counts from when it was due (what Tene calls coordinated omission is left out).
"""

import asyncio
import json
import os
import ssl
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from urllib.parse import urlsplit

# Seconds of the same load that come first and do not count: connections, caches, clocks.
WARM_UP = 1.0
# An open loop gives up a request that would need more connections than this: the server, or this client, is lost.
MOST_CONNECTIONS = 512
TIMEOUT = 60.0

Progress = Callable[[float], None]


class BenchmarkError(Exception):
    """The server cannot be measured; the text says why in one line."""


@dataclass(frozen=True)
class Sample:
    """One request: when it was due (seconds, perf_counter), its latency in seconds, its status, what the server says.

    `status` is 0 where no answer came, and -1 where the answer is no answer of the task. `steps` are Server-Timing's
    durations in milliseconds; `cached` is whether Cache-Status (RFC 9211) says that nothing was computed for it.
    """

    due: float
    latency: float
    status: int
    steps: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class Report:
    """One load's figures: rates per second, latencies and steps (means) in milliseconds, of answered requests only.

    `cached` counts those of them that the server had computed for an earlier request.
    """

    load: str
    seconds: float
    answered: int
    cached: int
    refused: int
    failed: int
    rate: float
    p50: float
    p95: float
    p99: float
    longest: float
    steps: dict[str, float]

    def as_json(self) -> dict[str, object]:
        """As a JSON object."""
        return asdict(self)


def is_answer(content: bytes) -> bool:
    """Whether the content is JSON with predictions."""
    try:
        answer = json.loads(content)
    except ValueError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("predictions"), list)


@dataclass(frozen=True)
class Target:
    """Where requests go, the bodies that they carry in turn (each a photo's file), and what an answer is."""

    url: str
    photos: Sequence[bytes]
    media_type: str = "application/octet-stream"
    is_answer: Callable[[bytes], bool] = is_answer

    def requests(self) -> list[bytes]:
        """The bytes of a request for each photo, made once."""
        parts = urlsplit(self.url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return [
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {self.media_type}\r\n"
            f"Accept: application/json\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
            + photo
            for photo in self.photos
        ]


class Connection:
    """A keep-alive connection of HTTP/1.1.

    A bare socket: a client library's share of the cores, on a machine that runs the server too, would be measured as
    the server's.
    """

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._target = target
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        """Connect. Raises BenchmarkError."""
        parts = urlsplit(target.url)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if secure else 80)
        try:
            return cls(target, *await asyncio.open_connection(parts.hostname, port, ssl=secure, limit=1 << 20))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise BenchmarkError(f"no server answers at {parts.hostname}:{port}: {reason}") from None

    async def ask(self, request: bytes, due: float) -> Sample:
        """Send a request and wait for its answer; after a status 0 the connection is of no more use."""
        try:
            async with asyncio.timeout(TIMEOUT):
                self._writer.write(request)
                http, status, headers = _head(await self._reader.readuntil(b"\r\n\r\n"))
                content = await self._reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError, KeyError, ValueError, TimeoutError, asyncio.LimitOverrunError):
            self.close()
            return Sample(due, perf_counter() - due, 0, {})
        latency = perf_counter() - due
        steps = _steps(headers.get("server-timing", ""))
        if http == "HTTP/1.0" or headers.get("connection", "").lower() == "close":
            self.close()
        if status == 200 and not self._target.is_answer(content):
            status = -1
        return Sample(due, latency, status, steps, _is_cached(headers.get("cache-status", "")))

    @property
    def is_open(self) -> bool:
        """Whether it can be asked again."""
        return not (self._writer.is_closing() or self._reader.at_eof())

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def closed_loop(
    target: Target, connections: int, seconds: float, progress: Progress = lambda _: None
) -> list[Sample]:
    """Ask over so many connections, each again as soon as it is answered. Raises BenchmarkError."""
    requests = target.requests()
    # All are open before the first asks, so that the load is whole from the start.
    opened = [await Connection.open(target) for _ in range(connections)]
    start = perf_counter()
    stop = start + WARM_UP + seconds
    samples: list[Sample] = []

    async def ask(connection: Connection, turn: int) -> None:
        while (now := perf_counter()) < stop:
            if not connection.is_open:
                connection = await Connection.open(target)
            samples.append(await connection.ask(requests[turn % len(requests)], now))
            turn += connections
            progress(min(perf_counter() - start, WARM_UP + seconds))
        connection.close()

    await asyncio.gather(*(ask(connection, turn) for turn, connection in enumerate(opened)))
    return [sample for sample in samples if sample.due >= start + WARM_UP]


async def open_loop(target: Target, rate: float, seconds: float, progress: Progress = lambda _: None) -> list[Sample]:
    """Ask so many times a second, whatever comes back. Raises BenchmarkError."""
    requests = target.requests()
    idle = [await Connection.open(target)]
    samples: list[Sample] = []
    under_way: set[asyncio.Task[None]] = set()

    async def ask(due: float, turn: int) -> None:
        connection = next((one for one in iter(lambda: idle.pop() if idle else None, None) if one.is_open), None)
        connection = connection or await Connection.open(target)
        samples.append(await connection.ask(requests[turn % len(requests)], due))
        if connection.is_open:
            idle.append(connection)

    start = perf_counter()
    for turn in range(round(rate * (WARM_UP + seconds))):
        due = start + turn / rate
        await asyncio.sleep(max(0.0, due - perf_counter()))
        if len(under_way) < MOST_CONNECTIONS:
            asked = asyncio.create_task(ask(due, turn))
            under_way.add(asked)
            asked.add_done_callback(under_way.discard)
        else:
            samples.append(Sample(due, perf_counter() - due, 0, {}))
        progress(due - start)
    await asyncio.gather(*under_way)
    for connection in idle:
        connection.close()
    return [sample for sample in samples if sample.due >= start + WARM_UP]


def report(load: str, samples: Sequence[Sample], seconds: float) -> Report:
    """Sum up: answered is status 200 with predictions, refused is 429 or 503, all else has failed."""
    good = [sample for sample in samples if sample.status == 200]
    refused = sum(sample.status in {429, 503} for sample in samples)
    latencies = sorted(1000 * sample.latency for sample in good)
    names = Counter(name for sample in good for name in sample.steps)
    return Report(
        load=load,
        seconds=seconds,
        answered=len(good),
        cached=sum(sample.cached for sample in good),
        refused=refused,
        failed=len(samples) - len(good) - refused,
        rate=round(len(good) / seconds, 2),
        p50=quantile(latencies, 0.50),
        p95=quantile(latencies, 0.95),
        p99=quantile(latencies, 0.99),
        longest=quantile(latencies, 1.0),
        steps={name: round(statistics.fmean(s.steps[name] for s in good if name in s.steps), 2) for name in names},
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed (nearest rank); 0 of none."""
    if not ordered:
        return 0.0
    return round(ordered[max(0, -int(-share * len(ordered) // 1) - 1)], 2)


def _head(head: bytes) -> tuple[str, int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    http, status, *_ = first.split()
    return http, int(status), {name.strip().lower(): value.strip() for name, value in pairs}


def _steps(header: str) -> dict[str, float]:
    found = {}
    for part in header.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        for parameter in parameters:
            if parameter.startswith("dur="):
                found[name] = float(parameter[4:])
    return found


def _is_cached(header: str) -> bool:
    return any(word.strip() in {"hit", "collapsed"} for part in header.split(",") for word in part.split(";")[1:])
