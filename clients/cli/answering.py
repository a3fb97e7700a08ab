"""From photos named on the command line to answers on standard output: the course of every command that answers."""

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from foursight.clients.cli import sources
from foursight.clients.cli.common import Common
from foursight.clients.cli.drawing import Drawings
from foursight.clients.cli.output import Outcome, Output, choose
from foursight.clients.cli.server import FAILED, reach
from foursight.clients.cli.sources import Source
from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import Rejected, UnreadableImage
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.results import Analysis

_POLL_S = 0.5
# What a server says of the options, and would say for every photo.
_USAGE = ("unknown_parameter", "invalid_parameter", "unknown_class")

Many = Callable[[list[ImageInput]], Generator[Outcome, None, None]]


def answer(task: str, options: Mapping[str, Any], common: Common) -> int:
    """Run one command; gives the exit status."""
    photos = sources.find(common.images or ())
    _check(photos, common)
    drawings = Drawings(common.draw, several=len(photos) > 1 or common.watch is not None) if common.draw else None
    with _answerer(task, options, common) as many, choose(common.json, common.jsonl) as output:
        good = _show(many, photos, output, drawings)
        if common.watch:
            good &= _watch(common.watch, common.draw, many, output, drawings)
    return 0 if good else FAILED


def _check(photos: Sequence[Source], common: Common) -> None:
    if not photos and not common.watch:
        what = f"no photo in {', '.join(common.images)}" if common.images else "no photo is named"
        raise typer.BadParameter(f"{what}: give files, folders with photos, or - for standard input")
    if common.watch and not common.watch.is_dir():
        raise typer.BadParameter(f"--watch: {common.watch} is no folder")
    if common.json and (common.jsonl or common.watch):
        raise typer.BadParameter("--json is one array, whole at the end: it goes neither with --jsonl nor with --watch")


@contextmanager
def _answerer(task: str, options: Mapping[str, Any], common: Common) -> Iterator[Many]:
    """What answers a list of images."""
    if common.local:
        from foursight.clients.cli.local import local_many  # noqa: PLC0415

        yield local_many(task, options, common.max_side)
        return
    reach(common.url, common.api_key, otherwise=", or add --local")
    with Client(common.url, common.api_key) as client:
        ask_many = getattr(client, f"{task}_many")

        def many(images: list[ImageInput]) -> Generator[Outcome, None, None]:
            # Where answers go to a terminal, they are the progress themselves.
            progress = len(images) > 1 and not sys.stdout.isatty()
            yield from ask_many(images, common.concurrency, progress, max_side=common.max_side, **options)

        yield many


def _show(many: Many, photos: Sequence[Source], output: Output, drawings: Drawings | None) -> bool:
    """Answer photos and write what comes, as it comes; gives whether all went well."""
    good = True
    for source, outcome in zip(photos, many([photo.image for photo in photos]), strict=True):
        if isinstance(outcome, Failed) and isinstance(outcome.error, Rejected) and outcome.error.code in _USAGE:
            raise typer.BadParameter(outcome.error.message)
        output.write(source.name, outcome)
        if isinstance(outcome, Failed) or (isinstance(outcome, Analysis) and outcome.failed):
            good = False
        if drawings and not isinstance(outcome, Failed):
            try:
                drawings.save(source, outcome)
            except (OSError, ValueError, UnreadableImage) as error:
                good = False
                print(f"{source.name}: no picture: {error}", file=sys.stderr)
    return good


def _watch(folder: Path, without: Path | None, many: Many, output: Output, drawings: Drawings | None) -> bool:
    """Answer what appears in the folder until Ctrl-C."""
    good = True
    newcomers = sources.watch(folder, without)
    next(newcomers)
    print(f"Watching {folder}; Ctrl-C ends it.", file=sys.stderr, flush=True)
    try:
        while True:
            time.sleep(_POLL_S)
            good &= _show(many, next(newcomers), output, drawings)
    except KeyboardInterrupt:
        return good
