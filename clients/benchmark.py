"""Load generators that measure a running server: throughput and latency, at fixed connections or at a fixed rate.

A closed loop (a fixed number of connections, each of which sends its next request when the last is answered) shows the
highest throughput. It slows down with the server, so it hides how long users wait. An open loop shows that: requests
leave at a fixed rate, and latency counts from the time a request was due, which avoids coordinated omission (Gil Tene).
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

# Seconds of the same load before anything is counted, so that connections, caches and clock speeds settle.
WARM_UP_S = 1.0
# An open loop counts a request that would need another connection as failed.
MAX_CONNECTIONS = 512
TIMEOUT_S = 60.0

Progress = Callable[[float], None]


class BenchmarkError(Exception):
    """The server cannot be measured. The message is one line."""


@dataclass(frozen=True)
class Sample:
    """One request: when it was due (seconds of perf_counter), its latency in seconds, and its outcome.

    `status` is the HTTP status, 0 if no response came, and -1 for status 200 with a body that is not an answer. `steps`
    are the durations of Server-Timing in milliseconds; `cached` says whether Cache-Status (RFC 9211) reports that
    nothing was computed for the request.
    """

    due: float
    latency: float
    status: int
    steps: dict[str, float]
    cached: bool = False


@dataclass(frozen=True)
class Report:
    """The figures of one load. `rate` is answers per second; latencies and mean steps are in milliseconds.

    Latencies and steps are those of answered requests. `cached` counts the answers that the server did not compute.
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
        """Return a JSON object."""
        return asdict(self)


def is_answer(content: bytes) -> bool:
    """Return whether a body is JSON with predictions."""
    try:
        answer = json.loads(content)
    except ValueError:
        return False
    return isinstance(answer, dict) and isinstance(answer.get("predictions"), list)


@dataclass(frozen=True)
class Target:
    """The address of the requests, the encoded images that they carry in turn, and the check of an answer.

    `api_key` is sent as a bearer token.
    """

    url: str
    images: Sequence[bytes]
    media_type: str = "application/octet-stream"
    is_answer: Callable[[bytes], bool] = is_answer
    api_key: str | None = None

    def requests(self) -> list[bytes]:
        """Return the bytes of a request for each image."""
        parts = urlsplit(self.url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        return [
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}Content-Type: {self.media_type}\r\n"
            f"Accept: application/json\r\nContent-Length: {len(image)}\r\n\r\n".encode()
            + image
            for image in self.images
        ]


class Connection:
    """A keep-alive connection of HTTP/1.1.

    It is a bare socket because a client library would take CPU time from a server on the same machine.
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
            raise BenchmarkError(f"No server answers at {parts.hostname}:{port}: {reason}") from None

    async def send(self, request: bytes, due: float) -> Sample:
        """Send a request and wait for the response. After status 0 the connection is closed."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
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
        """Whether another request can be sent."""
        return not (self._writer.is_closing() or self._reader.at_eof())

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def closed_loop(
    target: Target, connections: int, seconds: float, progress: Progress = lambda _: None
) -> list[Sample]:
    """Send requests over `connections`, on each the next one when the last is answered. Raises BenchmarkError."""
    requests = target.requests()
    # All connections are open before the first request, so that the load is complete from the start.
    opened = [await Connection.open(target) for _ in range(connections)]
    start = perf_counter()
    stop = start + WARM_UP_S + seconds
    samples: list[Sample] = []

    async def send(connection: Connection, turn: int) -> None:
        while (now := perf_counter()) < stop:
            if not connection.is_open:
                connection = await Connection.open(target)
            samples.append(await connection.send(requests[turn % len(requests)], now))
            turn += connections
            progress(min(perf_counter() - start, WARM_UP_S + seconds))
        connection.close()

    await asyncio.gather(*(send(connection, turn) for turn, connection in enumerate(opened)))
    return [sample for sample in samples if sample.due >= start + WARM_UP_S]


async def open_loop(target: Target, rate: float, seconds: float, progress: Progress = lambda _: None) -> list[Sample]:
    """Send `rate` requests per second, however long the answers take. Raises BenchmarkError."""
    requests = target.requests()
    idle = [await Connection.open(target)]
    samples: list[Sample] = []
    in_flight: set[asyncio.Task[None]] = set()

    async def send(due: float, turn: int) -> None:
        connection = next((one for one in iter(lambda: idle.pop() if idle else None, None) if one.is_open), None)
        connection = connection or await Connection.open(target)
        samples.append(await connection.send(requests[turn % len(requests)], due))
        if connection.is_open:
            idle.append(connection)

    start = perf_counter()
    for turn in range(round(rate * (WARM_UP_S + seconds))):
        due = start + turn / rate
        await asyncio.sleep(max(0.0, due - perf_counter()))
        if len(in_flight) < MAX_CONNECTIONS:
            sent = asyncio.create_task(send(due, turn))
            in_flight.add(sent)
            sent.add_done_callback(in_flight.discard)
        else:
            samples.append(Sample(due, perf_counter() - due, 0, {}))
        progress(due - start)
    await asyncio.gather(*in_flight)
    for connection in idle:
        connection.close()
    return [sample for sample in samples if sample.due >= start + WARM_UP_S]


def report(load: str, samples: Sequence[Sample], seconds: float) -> Report:
    """Summarize: answered is status 200 with predictions, refused is 429 or 503, anything else has failed."""
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
    """Return the smallest value that at least `share` of `ordered` do not exceed (nearest rank); 0 without values."""
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
