"""Many photos: several on their way at a time, results in the order of the photos, in constant memory."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from foursight.clients.sdk.errors import FoursightError
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.results import Analysis, Result

R = TypeVar("R", Result, Analysis)

# Photos begun but not yet handed out, for each one under way: one slow photo must not leave the other connections idle.
_AHEAD = 4


@dataclass(frozen=True)
class Failed:
    """In the place of the result of an image that could not be answered."""

    image: ImageInput
    error: FoursightError


def in_order(
    ask: Callable[[ImageInput], R], images: Iterable[ImageInput], concurrency: int, progress: bool
) -> Generator[R | Failed, None, None]:
    """Ask for each image in one of `concurrency` threads. What a closed generator has under way is waited for."""
    _check(images, concurrency)
    rest = iter(images)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="foursight")

    def answer(image: ImageInput) -> R | Failed:
        try:
            return _forgetful(ask(image))
        except FoursightError as error:
            return Failed(image, error)

    def begin(image: ImageInput) -> Future[R | Failed]:
        return pool.submit(answer, image)

    try:
        with _bar(images, progress) as advance:
            window = deque(map(begin, islice(rest, _AHEAD * concurrency)))
            while window:
                outcome = window.popleft().result()
                window.extend(map(begin, islice(rest, 1)))
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
    """Ask for each image in a task, `concurrency` at a time. What a closed generator has under way is cancelled."""
    _check(images, concurrency)
    rest = aiter(images) if isinstance(images, AsyncIterable) else _as_async(images)
    places = asyncio.Semaphore(concurrency)
    window: deque[asyncio.Task[R | Failed]] = deque()

    async def answer(image: ImageInput) -> R | Failed:
        async with places:
            try:
                return _forgetful(await ask(image))
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
    if isinstance(images, str | bytes | os.PathLike):
        raise TypeError("one image was given; several are a list of them, or any other iterable")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it is at least 1")


def _forgetful(result: R) -> R:
    """Let go of a photo in memory, so that who keeps all results does not keep all photos; a path costs nothing."""
    if not isinstance(result._photo, Path):
        result._photo = None
    return result


async def _as_async(images: Iterable[ImageInput]) -> AsyncGenerator[ImageInput, None]:
    for image in images:
        yield image


@contextmanager
def _bar(images: object, progress: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, where that is a terminal; gives what to call for each photo answered."""
    if not progress:
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # What is printed meanwhile goes above the bar; but what goes to a file or a pipe must go on to get there.
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=console, redirect_stdout=redirect, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(images) if isinstance(images, Sized) else None)
        yield lambda: bar.advance(task)
