"""Choose the main object among the detector's boxes, and measure how often it is right (MaxBoxAcc at IoU .5).

    python -m research.detector.localize --data DATA

Reads the predictions of research.detector.measure for `choose`, `report` and, if measured, `voc-report`. The truth is
the largest box, without crowds, of images where it covers a tenth or more (as in models/weights/LOCALIZER.md). The
exponent is chosen on `choose`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foursight.models.evaluation.measure import iou, main_object
from research.detector import data
from research.detector.evaluate import Found
from research.detector.workspace import parser

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def main() -> None:
    """Print the accuracy by exponent, then that of the best one on the other sets with its 95 % interval."""
    chosen = parser(__doc__).parse_args()
    choose = predictions(chosen.data, chosen.work, "choose")
    rates = {power: float(np.mean(hits(choose, power))) for power in POWERS}
    power = max(rates, key=lambda key: rates[key])
    print("choose:", {key: round(value, 3) for key, value in rates.items()}, "best", power)
    noise = np.random.default_rng(13)
    for name in ("report", "voc-report"):
        if not (chosen.work / f"found-{name}.pt").exists():
            continue
        rows = np.array(hits(predictions(chosen.data, chosen.work, name), power))
        draws = [rows[noise.integers(len(rows), size=len(rows))].mean() for _ in range(1000)]
        low, high = np.percentile(draws, [2.5, 97.5])
        print(f"{name}: {len(rows)} images, MaxBoxAcc {rows.mean():.3f} ({low:.3f}..{high:.3f})")


def predictions(folder: Path, work: Path, name: str) -> list[tuple[data.Photo, Found]]:
    """The images of a set that were measured, with their predictions."""
    found = torch.load(work / f"found-{name}.pt", weights_only=False)
    return list(zip(data.read(folder, name), found, strict=False))


def hits(rows: list[tuple[data.Photo, Found]], power: float) -> list[bool]:
    """For each image with a main object whether its box is found."""
    found = []
    for photo, one in rows:
        truth = main_object(photo.objects, photo.size)
        if truth is None:
            continue
        x, y, width, height = truth["bbox"]
        box = main_box(one, photo.size, power)
        found.append(box is not None and iou(box.tolist(), (x, y, x + width, y + height)) >= 0.5)
    return found


def main_box(found: Found, size: tuple[int, int], power: float) -> NDArray[Any] | None:
    """The box with the largest score * (share of the image) ** power, [4] xyxy; None if there are no boxes."""
    if not len(found.scores):
        return None
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    share = np.clip(sides.prod(1) / (size[0] * size[1]), 1e-6, 1)
    best: NDArray[Any] = found.boxes[np.argmax(found.scores * share**power)]
    return best


if __name__ == "__main__":
    main()
