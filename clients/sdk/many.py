"""Many images: several requests at a time, results in the order of the images, in constant memory."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from foursight.clients.sdk.errors import FoursightError
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.results import Analysis, Result

R = TypeVar("R", Result, Analysis)

# Images started but not yet yielded, per connection: a slow image must not leave the other connections idle.
_AHEAD = 4


@dataclass(frozen=True)
class Failed:
    """Yielded instead of a result for an image that failed."""

    image: ImageInput
    error: FoursightError


def in_order(
    ask: Callable[[ImageInput], R], images: Iterable[ImageInput], concurrency: int, progress: bool
) -> Generator[R | Failed, None, None]:
    """Call `ask` for each image in a pool of `concurrency` threads. Closing the generator waits for calls in flight."""
    _check(images, concurrency)
    rest = iter(images)
    process = os.getpid()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="foursight")

    def answer(image: ImageInput) -> R | Failed:
        try:
            return _forget_pixels(ask(image))
        except FoursightError as error:
            return Failed(image, error)

    def start(image: ImageInput) -> Future[R | Failed]:
        # With the caller's context variables, in which a trace is kept.
        return pool.submit(copy_context().run, answer, image)

    try:
        with _bar(images, progress) as advance:
            window = deque(map(start, islice(rest, _AHEAD * concurrency)))
            while window:
                if os.getpid() != process:
                    raise RuntimeError("this generator belongs to another process, whose threads a fork does not copy")
                outcome = window.popleft().result()
                window.extend(map(start, islice(rest, 1)))
                advance()
                yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


async def in_order_async(
    ask: Callable[[ImageInput], Awaitable[R]],
    images: Iterable[ImageInput] | AsyncIterable[ImageInput],
    concurrency: int,
    progress: bool,
) -> AsyncGenerator[R | Failed, None]:
    """Call `ask` for up to `concurrency` images at a time. Closing the generator cancels the calls in flight."""
    _check(images, concurrency)
    rest = aiter(images) if isinstance(images, AsyncIterable) else _as_async(images)
    slots = asyncio.Semaphore(concurrency)
    window: deque[asyncio.Task[R | Failed]] = deque()

    async def answer(image: ImageInput) -> R | Failed:
        async with slots:
            try:
                return _forget_pixels(await ask(image))
            except FoursightError as error:
                return Failed(image, error)

    async def refill() -> None:
        while len(window) < _AHEAD * concurrency:
            try:
                window.append(asyncio.create_task(answer(await anext(rest))))
            except StopAsyncIteration:
                return

    try:
        with _bar(images, progress) as advance:
            await refill()
            while window:
                outcome = await window[0]
                window.popleft()
                await refill()
                advance()
                yield outcome
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)


def _check(images: object, concurrency: int) -> None:
    # An array of three dimensions is an image, or grey images: rows of pixels are never meant.
    single = isinstance(images, np.ndarray) and images.ndim < 4
    single |= isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image)
    if single or hasattr(images, "read"):
        raise TypeError("expected an iterable of images, such as a list; got a single image")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")


def _forget_pixels(result: R) -> R:
    """Drop an image that is held in memory, so that a list of all results does not hold all images."""
    if not isinstance(result._original, Path):
        result._original = None
    return result


async def _as_async(images: Iterable[ImageInput]) -> AsyncGenerator[ImageInput, None]:
    for image in images:
        yield image


@contextmanager
def _bar(images: object, progress: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar, in a notebook or a terminal; yield a function to call after each image."""
    if not progress:
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # On a terminal, rich prints other output above the bar. Output to a file or a pipe must not be redirected.
    redirect = sys.stdout.isatty()
    hidden = not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, redirect_stdout=redirect, disable=hidden) as bar:
        task = bar.add_task("", total=len(images) if isinstance(images, Sized) else None)
        yield lambda: bar.advance(task)
