"""The task that tests/test_fifth_task.py adds: the main colours of an image, each with a box around its pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from foursight.models.results import Card, Predictions
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import Options

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
}
SIDE = 64


class ColoursOptions(Options):
    """Options of `colours`."""

    count: int = Field(3, ge=1, le=6, description="Number of colours, the most frequent first: 1 to 6.")


def load(profile: Any, device: str, precision: Any = None) -> "Colours":
    """Make the task; there is nothing to load."""
    return Colours(Card("palette", profile, tuple(COLOURS), f"{SIDE}x{SIDE}", "cpu", "uint8", 0, 0))


@dataclass(frozen=True)
class Colours:
    """Assigns each pixel to the nearest of six colours."""

    card: Card
    options: type[ColoursOptions] = ColoursOptions
    short_side: int = SIDE

    def resolve(self, options: ColoursOptions) -> ResolvedRequest[ColoursOptions, "Colours"]:
        """Wrap the options: the task has only one model."""
        return ResolvedRequest(options, self)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> Any:
        """Shrink the image."""
        return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)), size or image.size

    def predict(self, batch: list[tuple[Any, Any]]) -> list[Any]:
        """Find the nearest colour of each pixel."""
        palette = np.array(list(COLOURS.values()))
        return [(((pixels[:, :, None] - palette) ** 2).sum(axis=3).argmin(axis=2), size) for (pixels, size), _ in batch]

    def finish(self, output: Any, request: ResolvedRequest[ColoursOptions, Any]) -> Predictions:
        """Rank colours by their share of the image."""
        nearest, (width, height) = output
        shares = np.bincount(nearest.ravel(), minlength=len(COLOURS)) / nearest.size
        ranked = [int(index) for index in np.argsort(-shares, kind="stable") if shares[index]][: request.options.count]
        scale = np.array([width, height, width, height]) / SIDE
        return Predictions(
            class_ids=np.array(ranked, dtype=np.int64),
            labels=tuple(list(COLOURS)[index] for index in ranked),
            scores=shares[ranked].astype(np.float32),
            boxes=np.array([_bounds(nearest == index) * scale for index in ranked], dtype=np.float32),
        )


def _bounds(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
