"""Writes answers: tables on a terminal, JSON for programs."""

import json
import sys
from collections.abc import Sequence
from typing import Any, Protocol, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foursight.clients.sdk.errors import ApiError, FoursightError
from foursight.clients.sdk.many import Failed
from foursight.clients.sdk.results import Analysis, Prediction, Result

Outcome = Result | Analysis | Failed


class Output(Protocol):
    """Writes one outcome after another. A context manager; everything is written when it ends."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def write(self, name: str, outcome: Outcome) -> None:
        """Write the answer for the image `name`, or the error."""


def choose(as_array: bool, as_lines: bool) -> Output:
    """Choose the output: as requested, otherwise tables on a terminal and JSON lines elsewhere."""
    if as_array or as_lines or not sys.stdout.isatty():
        return Json(array=as_array)
    return Tables()


class Json:
    """A JSON object per image, `file` and the server's answer: one per line, or all in one array."""

    def __init__(self, *, array: bool) -> None:
        self._array = array
        self._first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._array and not (self._first and error[0]):
            sys.stdout.write(f"{'[' if self._first else ''}\n]\n")

    def write(self, name: str, outcome: Outcome) -> None:
        """Write one object."""
        if isinstance(outcome, Failed):
            answer = {"error": _to_json(outcome.error)}
        else:
            answer = outcome.model_dump(mode="json", exclude_none=True)
        # Escapes of other encodings would not be JSON's.
        line = json.dumps({"file": name} | answer, ensure_ascii=(sys.stdout.encoding or "").lower() != "utf-8")
        if self._array:
            sys.stdout.write(f"{'[' if self._first else ','}\n{line}")
        else:
            sys.stdout.write(f"{line}\n")
        self._first = False
        sys.stdout.flush()


class Tables:
    """A small table per image; failures go to standard error."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._errors = Console(stderr=True, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, name: str, outcome: Outcome) -> None:
        """Write a table, or one per task of an analysis."""
        if isinstance(outcome, Failed):
            self._fail(name, outcome.error)
        elif isinstance(outcome, Result):
            self._table(name, outcome)
        else:
            for task, found in outcome.tasks.items():
                if isinstance(found, Result):
                    self._table(f"{name}, {task}", found)
            for task, error in outcome.failed.items():
                self._fail(f"{name}, {task}", error)

    def _fail(self, name: str, error: FoursightError) -> None:
        self._errors.print(Text.assemble((name, "bold"), "  ", (str(error), "red")))

    def _table(self, name: str, result: Result) -> None:
        size = f"{result.image.width} x {result.image.height}"
        self._console.print(Text.assemble((name, "bold"), "  ", (size, "dim")))
        if result.predictions:
            self._console.print(_table(result.predictions))
        else:
            self._console.print("  no objects found", style="dim")


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 1, 0, 2), header_style="dim")
    table.add_column("label")
    table.add_column("score", justify="right")
    boxes = any(one.box for one in predictions)
    masks = any(one.encoded_mask is not None for one in predictions)
    classified = any(one.classification for one in predictions)
    if boxes:
        table.add_column("x1 y1 x2 y2", justify="right")
    if masks:
        table.add_column("area", justify="right")
    if classified:
        table.add_column("ImageNet label")
    for one in predictions:
        row: list[str | Text] = [Text(one.label), f"{100 * one.score:.1f} %"]
        if boxes:
            row.append("{:.0f} {:.0f} {:.0f} {:.0f}".format(*one.box) if one.box else "")
        if masks:
            row.append("" if one.mask is None else f"{100 * one.mask.mean():.1f} %")
        if classified:
            row.append(Text(_best(one.classification or ())))
        table.add_row(*row)
    return table


def _best(labels: Sequence[Prediction]) -> str:
    return f"{labels[0].label}  {100 * labels[0].score:.1f} %" if labels else ""


def _to_json(error: FoursightError) -> dict[str, Any]:
    """Return an error as the server's problem details, or in the same form."""
    if isinstance(error, ApiError):
        details = error.problem.model_dump()
    else:
        details = {"title": type(error).__name__, "detail": error.message}
    return details | ({"request_id": error.request_id} if error.request_id else {})
