"""Measure the SDK's overhead for a client: peak memory and throughput of classify_many, compared with plain httpx.

    foursight serve &
    python loadtests/many.py --photo photo.jpg --url http://127.0.0.1:8000
    python loadtests/many.py --photo photo.jpg     # a stub that answers at once, so only the client counts

Each measurement runs in its own process, which uploads the image repeatedly, 8 at a time, and reports its peak resident
memory, its rate and its CPU time. The SDK reads the file for each upload and makes a Result; plain httpx reads the file
and parses the answer as JSON. Rounds are interleaved, because a shared machine's speed drifts; the median of the
rounds' ratios is printed. On a busy machine the ratio of CPU time is the more reliable one.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from foursight import AsyncClient, Client, Failed

CONCURRENCY = 8
_ANSWER = (
    b'{"model":"stub","image":{"width":640,"height":480},"predictions":['
    + b",".join(b'{"label":"cat","class_id":%d,"score":0.5,"wnid":"n02123159"}' % number for number in range(5))
    + b"]}"
)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a running server on loopback; without it, a stub that answers at once")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 5000], help="uploads, for the peak memory")
    parser.add_argument("--uploads", type=int, default=1000, help="uploads per measurement of the ratio")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the ratio; 0 skips it")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        way, count = chosen.measure
        print(json.dumps(asdict(measure(WAYS[way], chosen.url, chosen.photo, int(count)))))
        return
    with _server(chosen.url) as url:
        print(f"{chosen.photo.name}, {chosen.photo.stat().st_size:,} bytes, {CONCURRENCY} at a time, to {url}")
        for way in ("SDK", "SDK, async"):
            for count in chosen.counts:
                found = _measure_apart(way, url, chosen.photo, count)
                print(f"{way:10} {count:5} uploads, peak {found.memory:.1f} MiB, {found.rate:.1f}/s", flush=True)
        for way, other in (("SDK", "httpx"), ("SDK, async", "httpx, async")) if chosen.rounds else ():
            pairs = [
                [_measure_apart(one, url, chosen.photo, chosen.uploads) for one in (way, other)]
                for _ in range(chosen.rounds)
            ]
            print(f"{way}: {_spread([mine.rate / theirs.rate for mine, theirs in pairs])} of the throughput of {other}")
            print(f"{way}: {_spread([mine.cpu / theirs.cpu for mine, theirs in pairs])} of its CPU time", flush=True)
            median = statistics.median
            print(f"{way}: {median(mine.rate for mine, _ in pairs):.1f}/s, ", end="")
            print(f"{median(mine.cpu for mine, _ in pairs):.2f} ms of CPU an upload", flush=True)


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"


@dataclass(frozen=True)
class Measured:
    """Peak resident memory in MiB, uploads per second, and CPU time per upload in ms."""

    memory: float
    rate: float
    cpu: float


def measure(way: Callable[[str, Iterator[Path]], None], url: str, photo: Path, count: int) -> Measured:
    """Upload a file `count` times."""
    start, cpu = time.perf_counter(), time.process_time()
    way(url, itertools.repeat(photo, count))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(memory, count / seconds, 1000 * cpu / count)


def sdk(url: str, photos: Iterator[Path]) -> None:
    """Use the SDK's threads."""
    with Client(url) as client:
        for result in client.classify_many(photos, CONCURRENCY):
            if isinstance(result, Failed):
                raise SystemExit(str(result.error))


def sdk_async(url: str, photos: Iterator[Path]) -> None:
    """Use the SDK in an event loop."""

    async def run() -> None:
        async with AsyncClient(url) as client:
            async for result in client.classify_many(photos, CONCURRENCY):
                if isinstance(result, Failed):
                    raise SystemExit(str(result.error))

    asyncio.run(run())


def plain(url: str, photos: Iterator[Path]) -> None:
    """Use plain httpx in threads."""
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                photo = next(photos, None)
            if photo is None:
                return
            client.post("/v1/classify", content=photo.read_bytes()).raise_for_status().json()

    with httpx.Client(base_url=url, timeout=60) as client:
        threads = [threading.Thread(target=work) for _ in range(CONCURRENCY)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def plain_async(url: str, photos: Iterator[Path]) -> None:
    """Use plain httpx in tasks of an event loop."""

    async def work(client: httpx.AsyncClient) -> None:
        for photo in photos:
            # In a thread, so that reading does not block the event loop.
            content = await asyncio.to_thread(photo.read_bytes)
            (await client.post("/v1/classify", content=content)).raise_for_status().json()

    async def run() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await asyncio.gather(*(work(client) for _ in range(CONCURRENCY)))

    asyncio.run(run())


WAYS = {"SDK": sdk, "SDK, async": sdk_async, "httpx": plain, "httpx, async": plain_async}


def _measure_apart(way: str, url: str, photo: Path, count: int) -> Measured:
    command = [sys.executable, __file__, "--url", url, "--photo", str(photo), "--measure", way, str(count)]
    return Measured(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_stub, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _stub(ready: Connection) -> None:
    """Answer every request at once, as classify would."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(asked.split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(head + _ANSWER)
        except asyncio.IncompleteReadError:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
