"""The threads that decode and encode images: one lane for all, and a narrow one for large images.

Large images, which take seconds and hundreds of megabytes, go through their own lane, so that small ones never wait
behind them and few are in memory at once.
"""

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from foursight.models.decode_guard import Guard, LargeImage
from foursight.models.engines import environment

Value = TypeVar("Value")

# Above the pixels of most phones' photos.
LARGE_PIXELS = 16_000_000
# Threads for large images. An image of 50 megapixels takes up to 500 MB while it is converted.
LARGE_THREADS = 2


class ImagePool:
    """Runs work on images in threads; `decode_seconds` bounds each decode."""

    def __init__(self, decode_seconds: float) -> None:
        self._decode_seconds = decode_seconds
        cpus = environment.available_cpus()
        self._all = ThreadPoolExecutor(cpus, thread_name_prefix="image")
        self._large = ThreadPoolExecutor(max(1, min(LARGE_THREADS, cpus // 2)), thread_name_prefix="large-image")

    async def run(self, work: Callable[[], Value]) -> Value:
        """Return the result of `work`, computed in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._all, work)

    async def decode(self, work: Callable[[Guard], Value]) -> Value:
        """Return the result of `work`, which decodes one image under the guard that it gets.

        If the caller is cancelled, so is the decode. `work` is called a second time for a large image.
        """
        guard = Guard(self._decode_seconds, LARGE_PIXELS)
        loop = asyncio.get_running_loop()
        try:
            try:
                return await loop.run_in_executor(self._all, _in_time, work, guard)
            except LargeImage:
                return await loop.run_in_executor(self._large, _decode_large, work, guard)
        finally:
            guard.cancel()

    def close(self) -> None:
        """End the threads; work that waits for them is cancelled."""
        for pool in (self._all, self._large):
            pool.shutdown(cancel_futures=True)


def give_memory_back() -> None:
    """Return freed memory to the system; see models/engines/environment.py, which lets the allocator keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _in_time(work: Callable[[Guard], Value], guard: Guard) -> Value:
    # The time that the image has waited for a thread does not count.
    guard.start()
    return work(guard)


def _decode_large(work: Callable[[Guard], Value], guard: Guard) -> Value:
    guard.let_large_pass()
    try:
        return _in_time(work, guard)
    finally:
        give_memory_back()
