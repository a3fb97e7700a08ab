"""Answers the images named on the command line and writes the answers to standard output, for every task command."""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from foursight.clients.cli import sources
from foursight.clients.cli.command import FAILED
from foursight.clients.cli.drawing import Drawings
from foursight.clients.cli.options import Shared
from foursight.clients.cli.output import Outcome, Output, choose
from foursight.clients.cli.server import require_server
from foursight.clients.cli.sources import Source
from foursight.clients.cli.unknown_names import unknown_label, unknown_model
from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import Rejected, UnreadableImage
from foursight.clients.sdk.images import ImageInput
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.results import Analysis
from foursight.schema import ModelCard

_POLL_S = 0.5
# Errors in the options, which would be the same for every image.
_WRONG_USAGE = ("unknown_parameter", "invalid_parameter", "unknown_class", "unknown_model")

Many = Callable[[list[ImageInput]], Generator[Outcome, None, None]]


def answer(task: str, options: Mapping[str, Any], shared: Shared) -> int:
    """Run a task command with the options of its requests; return the exit status."""
    images = sources.find(shared.images)
    _check(images, shared)
    drawings = Drawings(shared.draw, several=len(images) > 1 or shared.watch is not None) if shared.draw else None
    with _answerer(task, options, shared) as many, choose(shared.json, shared.jsonl) as output:
        succeeded = _show(many, images, output, drawings)
        if shared.watch:
            succeeded &= _watch(shared.watch, shared.draw, many, output, drawings)
    return 0 if succeeded else FAILED


def _check(images: Sequence[Source], shared: Shared) -> None:
    if not images and not shared.watch:
        problem = f"No images in {', '.join(shared.images)}." if shared.images else "No images given."
        raise click.UsageError(f"{problem} Name files, folders with images, or - for standard input.")
    if shared.watch and not shared.watch.is_dir():
        raise click.UsageError(f"--watch: {shared.watch} is not a folder.")
    if shared.json and (shared.jsonl or shared.watch):
        raise click.UsageError("--json writes one array at the end. It excludes --jsonl and --watch.")


@contextmanager
def _answerer(task: str, options: Mapping[str, Any], shared: Shared) -> Iterator[Many]:
    """Yield the function that answers a list of images, with models in this process or with a server."""
    if shared.local:
        from foursight.clients.cli.local import local_many  # noqa: PLC0415

        yield local_many(task, options, shared.max_side)
        return
    if os.sep in options.get("model", ""):
        raise click.UsageError("--model: a path needs --local. A server knows its models by their names.")
    cards = require_server(shared.url, shared.api_key, otherwise=", or add --local")
    with Client(shared.url, shared.api_key, shared.timeout) as client:
        ask_many = client.analyze_many if task == "analyze" else partial(client.run_many, task)

        def many(images: list[ImageInput]) -> Generator[Outcome, None, None]:
            # On a terminal, the answers themselves are the progress.
            progress = len(images) > 1 and not sys.stdout.isatty()
            for outcome in ask_many(images, shared.concurrency, progress, max_side=shared.max_side, **options):
                if isinstance(outcome, Failed) and isinstance(outcome.error, Rejected):
                    _require_usage(outcome.error, task, options, cards)
                yield outcome

        yield many


def _require_usage(error: Rejected, task: str, options: Mapping[str, Any], cards: Sequence[ModelCard]) -> None:
    """Raise UsageError if the server rejected the options and not the image."""
    if error.code not in _WRONG_USAGE:
        return
    tasks = options.get("tasks", [card.task for card in cards]) if task == "analyze" else [task]
    cards = [card for card in cards if card.task in tasks]
    names = [card.name for card in cards if card.finetuned]
    model = options.get("model")
    if error.code == "unknown_class":
        chosen = [card for card in cards if card.name == model] or [card for card in cards if not card.finetuned]
        labels = list(dict.fromkeys(label for card in chosen for label in card.labels))
        raise click.UsageError(f"--classes: {unknown_label(options['classes'], labels)}")
    if model is not None and model not in names:
        raise click.UsageError(f"--model: {unknown_model(model, names)}")
    raise click.UsageError(error.message)


def _show(many: Many, images: Sequence[Source], output: Output, drawings: Drawings | None) -> bool:
    """Answer images and write each answer as it arrives; return whether all succeeded."""
    succeeded = True
    for source, outcome in zip(images, many([image.image for image in images]), strict=True):
        output.write(source.name, outcome)
        if isinstance(outcome, Failed) or (isinstance(outcome, Analysis) and outcome.failed):
            succeeded = False
        if drawings and not isinstance(outcome, Failed):
            try:
                drawings.save(source, outcome)
            except (OSError, ValueError, UnreadableImage) as error:
                succeeded = False
                print(f"{source.name}: cannot write the picture: {error}", file=sys.stderr)
    return succeeded


def _watch(folder: Path, without: Path | None, many: Many, output: Output, drawings: Drawings | None) -> bool:
    """Answer the images that appear in a folder until Ctrl-C; return whether all succeeded."""
    succeeded = True
    arrivals = sources.watch(folder, without)
    next(arrivals)
    print(f"Watching {folder}. Press Ctrl-C to stop.", file=sys.stderr, flush=True)
    try:
        while True:
            time.sleep(_POLL_S)
            succeeded &= _show(many, next(arrivals), output, drawings)
    except KeyboardInterrupt:
        return succeeded
