"""What every evaluation is made of: whom to ask, the photos and what was said of them, tables."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from foursight.schema import Answer, Prediction


class EvaluateError(Exception):
    """The data or the server do not allow an evaluation; the message is for a person, `status` for the shell."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asker:
    """Whom to ask: the task and name of the model, the labels that it knows, and an answer for the bytes of a photo.

    `has_wnids`: its labels are ImageNet's, and have WordNet ids.
    """

    task: str
    model: str
    labels: tuple[str, ...]
    has_wnids: bool
    ask: Callable[[bytes], Answer]
    concurrency: int


@dataclass(frozen=True)
class Bad:
    """A photo that was answered badly: its file, what to say of it, and what was answered and what is true."""

    path: Path
    caption: str
    answered: Sequence[Prediction]
    true: Sequence[Prediction]


@dataclass(frozen=True)
class Report:
    """An evaluation: what `--json` prints, the tables of it for people, and the photos from the worst on."""

    content: dict[str, Any]
    tables: list[Table]
    worst: list[Bad]


def ask_all(asker: Asker, paths: Sequence[Path]) -> Iterator[tuple[int, Answer | str]]:
    """The answer for each photo, or why there is none, with the photo's index; a terminal shows how far it is."""

    def ask(path: Path) -> Answer | str:
        try:
            return asker.ask(path.read_bytes())
        except Exception as error:
            # One photo that is missing or damaged is told at the end; the rest are measured.
            return str(error) or type(error).__name__

    progress = Console(stderr=True)
    with ThreadPoolExecutor(asker.concurrency) as pool:
        found = pool.map(ask, paths)
        yield from enumerate(
            track(found, "Asking", total=len(paths), console=progress, transient=True, disable=not progress.is_terminal)
        )


def plain(label: str) -> str:
    """A label as it is compared: case and underscores do not matter."""
    return label.replace("_", " ").casefold()


def read_coco(file: Path) -> dict[str, Any]:
    """The content of a COCO file. Raises EvaluateError."""
    try:
        listing: dict[str, Any] = json.loads(file.read_text())
        for part in ("images", "annotations", "categories"):
            if not isinstance(listing[part], list):
                raise TypeError(part)
    except OSError as error:
        raise EvaluateError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EvaluateError(f"{file} is no COCO JSON: images, annotations and categories are expected.") from None
    if not listing["images"]:
        raise EvaluateError(f"{file} lists no images.")
    return listing


def folder_of(file: Path, images: Path | None) -> Path:
    """Where the photos of a COCO file are: as said, else in `images/` beside it, else beside it."""
    return images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)


def categories_of(listing: dict[str, Any], asked: list[str] | None) -> tuple[dict[int, str], list[int]]:
    """The names of a COCO listing's categories by id, and the ids asked for. Raises EvaluateError."""
    ids = {plain(category["name"]): category["id"] for category in listing["categories"]}
    labels = {category["id"]: category["name"] for category in listing["categories"]}
    unknown = [name for name in asked or () if plain(name) not in ids]
    if unknown:
        raise EvaluateError(f"The data has no category {unknown[0]!r}. There are: {', '.join(labels.values())}.")
    return labels, [ids[plain(name)] for name in asked] if asked else list(labels)


def ask_photos(
    asker: Asker, folder: Path, photos: Sequence[dict[str, Any]]
) -> tuple[dict[int, Answer], list[dict[str, str]]]:
    """Answers by the ids of a COCO listing's photos, and those without one. Raises EvaluateError if none has."""
    answers: dict[int, Answer] = {}
    failed = []
    for index, answer in ask_all(asker, [folder / photo["file_name"] for photo in photos]):
        if isinstance(answer, str):
            failed.append({"file": str(folder / photos[index]["file_name"]), "error": answer})
        else:
            answers[photos[index]["id"]] = answer
    if not answers:
        raise EvaluateError(f"No photo was answered. The first: {failed[0]['file']}: {failed[0]['error']}", 1)
    return answers, failed


def true_objects(items: Iterable[dict[str, Any]], labels: dict[int, str]) -> list[Prediction]:
    """A COCO listing's objects as predictions that are sure, to be drawn."""
    return [
        Prediction(
            label=labels[item["category_id"]],
            class_id=item["category_id"],
            score=1,
            wnid=None,
            box=(x, y, x + w, y + h),
            classification=None,
        )
        for item in items
        for x, y, w, h in [item["bbox"]]
    ]


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose rows begin with a name; what is None was not measured."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, *cells in rows:
        table.add_row(str(name), *("-" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
    return table
