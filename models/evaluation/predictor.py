"""The model under evaluation, as a function from an image's bytes to predictions, wherever it runs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from foursight.schema import Prediction


class EvaluationError(Exception):
    """The data or the model cannot be evaluated."""


class NoPredictionsError(EvaluationError):
    """The predictor failed on every image."""


@dataclass(frozen=True)
class Predictor:
    """A model to be evaluated: its task, name and labels, and `predict`, which maps an encoded image to predictions.

    Predictions have the best score first, boxes in pixels and masks as RLE. `predict` is called from `concurrency`
    threads. `has_wnids`: the labels are those of ImageNet, which have WordNet ids.
    """

    task: str
    model: str
    labels: Sequence[str]
    has_wnids: bool
    predict: Callable[[bytes], Sequence[Prediction]]
    concurrency: int = 1

    @cached_property
    def known(self) -> frozenset[str]:
        """The labels, normalized."""
        return frozenset(map(normalize_label, self.labels))

    def knows(self, label: str) -> bool:
        """Return whether the model has a label."""
        return normalize_label(label) in self.known


@dataclass(frozen=True)
class Selection:
    """Which part of the data is evaluated (None: all of it), and how much is reported.

    `classes` are labels; `limit` selects that number of images, from the first; `worst` is the number of worst
    examples. `on_progress` is called with the number of images done and their total.
    """

    classes: Sequence[str] | None = None
    limit: int | None = None
    worst: int = 16
    on_progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class WorstExample:
    """An image with errors: its file, a caption, the predictions and, if the data has boxes, the true objects."""

    path: Path
    caption: str
    predicted: Sequence[Prediction]
    truth: Sequence[Prediction]


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on a data set, and the worst examples, the worst first.

    `figures` can be written as JSON; it has at least `photos` (their number), `overall`, `classes` and `failed`, the
    images without predictions as {"file", "error"}.
    """

    figures: dict[str, Any]
    worst: Sequence[WorstExample]


def predict_all(
    predictor: Predictor, paths: Sequence[Path], on_progress: Callable[[int, int], None]
) -> Iterator[tuple[int, Sequence[Prediction] | str]]:
    """Yield the index of each image with its predictions, or with the reason why there are none."""

    def predict(path: Path) -> Sequence[Prediction] | str:
        try:
            return predictor.predict(path.read_bytes())
        except Exception as error:
            # A missing or damaged image must not end the evaluation of the others.
            return str(error) or type(error).__name__

    with ThreadPoolExecutor(predictor.concurrency) as pool:
        for index, found in enumerate(pool.map(predict, paths)):
            on_progress(index + 1, len(paths))
            yield index, found


def normalize_label(label: str) -> str:
    """Return a label in the form in which labels are compared: case and underscores do not matter."""
    return label.replace("_", " ").casefold()
