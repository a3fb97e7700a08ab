"""How long a small classification waits while one client sends what is slow to answer.

    python loadtests/hostile.py --url http://127.0.0.1:8000

Prints a table in Markdown: the median and the longest wait of the classifications in seconds, their statuses, that of
/readyz, and those that the other client gets. Hosts other than loopback are refused.
"""

import argparse
import io
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import httpx
from PIL import Image

SECONDS = 8.0
TIMEOUT_S = 120.0


def main() -> None:
    """Measure each load in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    url = parser.parse_args().url
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        parser.error("only a server on this machine may be loaded")
    print(
        "| load | median | longest | statuses | /readyz | statuses of the load |\n|---|---|---|---|---|---|", flush=True
    )
    for name, load in {"none": [], **loads(url)}.items():
        print(f"| {name} | {measure(url, load)} |", flush=True)


def loads(url: str) -> dict[str, list[Callable[[], str]]]:
    """Return the loads by what they are: functions that are called at the same time and return a status."""
    bomb, large = jpeg_bomb(), encoded(Image.new("I;16", (7000, 7000)), "PNG")
    return {
        f"8 progressive JPEGs of {len(bomb) // 1000} kB with 500 scans": [lambda: post(url, bomb)] * 8,
        "200 bodies of one byte a second": [lambda: slow_body(url)] * 200,
        "200 tables of layers": [partial(layers, url, size) for size in range(128, 328)],
        f"40 PNGs of {len(large) // 1000} kB with 49 megapixels": [lambda: post(url, large)] * 40,
    }


def measure(url: str, load: list[Callable[[], str]]) -> str:
    """Return the row of a load, whose functions are called at the same time; each returns a status."""
    image = encoded(Image.effect_mandelbrot((320, 240), (-2, -1.5, 1, 1.5), 100), "JPEG")
    with ThreadPoolExecutor(max(1, len(load))) as pool, httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        others = [pool.submit(one) for one in load]
        time.sleep(0.2)
        waits, statuses = [], Counter[str]()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            start = time.monotonic()
            statuses[str(client.post("/v1/classify", content=image).status_code)] += 1
            waits.append(time.monotonic() - start)
        ready = client.get("/readyz").status_code
        answers = Counter(one.result() for one in others)
    row = [f"{statistics.median(waits):.2f}", f"{max(waits):.2f}", _counts(statuses), str(ready), _counts(answers)]
    return " | ".join(row)


def post(url: str, image: bytes) -> str:
    """Classify an image; return the status."""
    try:
        return str(httpx.post(f"{url}/v1/classify", content=image, timeout=TIMEOUT_S).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def layers(url: str, size: int) -> str:
    """Ask for the layers of the classifier; return the status."""
    try:
        return str(httpx.get(f"{url}/v1/models/classify/layers?size={size}", timeout=TIMEOUT_S).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def slow_body(url: str) -> str:
    """Send one byte of a body a second, then hang up."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S) as caller:
            caller.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(int(SECONDS) + 2):
                caller.sendall(b"x")
                time.sleep(1)
    except OSError as error:
        return type(error).__name__
    return "hung up"


def jpeg_bomb(scans: int = 500) -> bytes:
    """Return a grey progressive JPEG whose last scan, which refines nothing, is repeated."""
    data = encoded(Image.new("L", (7000, 7000), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def encoded(image: Image.Image, kind: str, **options: bool) -> bytes:
    """Return an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _counts(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))


if __name__ == "__main__":
    main()
