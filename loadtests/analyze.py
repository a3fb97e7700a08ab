"""Compare one `/v1/analyze` request with four requests to the single tasks, sent in parallel and one after another.

    foursight serve &
    python loadtests/analyze.py --photo photo.jpg

Rounds are interleaved, because a shared machine's speed drifts. Ratios are taken within a round; their median, minimum
and maximum are printed.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from foursight.models import TASKS


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    asyncio.run(compare(chosen.url, chosen.photo, chosen.rounds))


async def compare(url: str, photo: Path, rounds: int) -> None:
    """Time each way in turn, `rounds` times, after a warm-up round."""
    body = photo.read_bytes()
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:

        async def post(path: str) -> None:
            (await client.post(path, content=body)).raise_for_status()

        async def in_parallel() -> None:
            await asyncio.gather(*(post(f"/v1/{task}") for task in TASKS))

        async def one_after_another() -> None:
            for task in TASKS:
                await post(f"/v1/{task}")

        ways: dict[str, Callable[[], Awaitable[None]]] = {
            "analyze": lambda: post("/v1/analyze"),
            "four in parallel": in_parallel,
            "four one after another": one_after_another,
            "analyze, then=classify": lambda: post("/v1/analyze?then=classify"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, ask in ways.items():
                start = time.perf_counter()
                await ask()
                seconds[name].append(time.perf_counter() - start)
    print(f"{photo.name}, {len(body):,} bytes, {os.cpu_count()} cores, {rounds} rounds")
    for name, found in seconds.items():
        ratios = sorted(one / base for one, base in zip(found[1:], seconds["analyze"][1:], strict=True))
        print(
            f"{name:24} {1000 * statistics.median(found[1:]):8.0f} ms   {statistics.median(ratios):5.2f} of analyze "
            f"({ratios[0]:.2f}..{ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
