"""COCO's average precision over images, with bootstrap intervals. pycocotools matches; the sums are here."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foursight.models import coco
from research.detector.data import Photo

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Found:
    """Predictions for an image: `boxes` float [N, 4] xyxy, `scores` [N], `ids` [N] of COCO, `masks` RLEs or None."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    ids: NDArray[Any]
    masks: list[dict[str, Any]] | None = None


class Evaluation:
    """Matches of the predictions with the truth; the figures come from `ap`."""

    def __init__(
        self, photos: Sequence[Photo], found: Sequence[Found], ids: Sequence[int] | None = None, kind: str = "bbox"
    ) -> None:
        truth, rows = _truth(photos, kind), []
        for number, one in enumerate(found):
            for place in range(len(one.scores)):
                x1, y1, x2, y2 = map(float, one.boxes[place])
                row: dict[str, Any] = {
                    "image_id": number,
                    "category_id": int(one.ids[place]),
                    "score": float(one.scores[place]),
                }
                row |= {"bbox": [x1, y1, x2 - x1, y2 - y1]} if one.masks is None or kind == "bbox" else {}
                rows.append(row | ({"segmentation": one.masks[place]} if kind == "segm" and one.masks else {}))
        with contextlib.redirect_stdout(io.StringIO()):
            mine = truth.loadRes(rows) if rows else COCO()
            run = COCOeval(truth, mine, kind)
            if ids is not None:
                run.params.catIds = list(ids)
            run.evaluate()
        self.ids, self.areas, count = run.params.catIds, len(run.params.areaRng), len(photos)
        self.cells = np.array(run.evalImgs, dtype=object).reshape(len(self.ids), self.areas, count)
        self.thresholds = run.params.iouThrs

    def ap(self, area: int = 0, photos: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """AP by category and IoU threshold, float [K, 10], nan if a category has no objects; `area` 1: small ones."""
        chosen = np.arange(self.cells.shape[2]) if photos is None else photos
        return np.stack([_ap([cell for cell in row[chosen] if cell is not None]) for row in self.cells[:, area]])

    def summary(self, draws: int = 0) -> dict[str, Any]:
        """AP, AP50, small AP; with `draws` also 95 % intervals of AP and AP50 over resampled images."""
        whole, small = self.ap(), self.ap(1)
        figures: dict[str, Any] = {"AP": _mean(whole), "AP50": _mean(whole[:, 0]), "small": _mean(small)}
        noise, drawn = np.random.default_rng(13), []
        for _ in range(draws):
            table = self.ap(photos=noise.integers(self.cells.shape[2], size=self.cells.shape[2]))
            drawn.append((_mean(table), _mean(table[:, 0])))
        if drawn:
            low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
            figures |= {"AP interval": (low[0], high[0]), "AP50 interval": (low[1], high[1])}
        return figures


def line(figures: dict[str, Any]) -> str:
    """Return a summary as a line of text."""
    return "  ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value[0]:.3f}..{value[1]:.3f}"
        for name, value in figures.items()
    )


def _truth(photos: Sequence[Photo], kind: str) -> COCO:
    truth = COCO()
    rows: list[dict[str, Any]] = []
    for number, photo in enumerate(photos):
        for item in photo.objects:
            row = {"iscrowd": 0, **item, "id": len(rows) + 1, "image_id": number}
            if kind == "bbox":
                # The objects of `coco_more` have no outlines.
                row.pop("segmentation", None)
            rows.append(row)
    categories = [{"id": number, "name": name} for number, name in coco.CATEGORIES]
    images = [{"id": n, "height": photo.size[0], "width": photo.size[1]} for n, photo in enumerate(photos)]
    truth.dataset = {"images": images, "annotations": rows, "categories": categories, "info": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _ap(cells: list[dict[str, Any]]) -> NDArray[np.float64]:
    """COCOeval.accumulate for one category and area: float [10]."""
    there = sum(int((np.asarray(cell["gtIgnore"]) == 0).sum()) for cell in cells)
    if not there:
        return np.full(10, np.nan)
    order = np.argsort(-np.concatenate([cell["dtScores"][:100] for cell in cells]), kind="mergesort")
    matches = np.concatenate([cell["dtMatches"][:, :100] for cell in cells], 1)[:, order] > 0
    ignored = np.concatenate([cell["dtIgnore"][:, :100] for cell in cells], 1)[:, order].astype(bool)
    right, wrong = np.cumsum(matches & ~ignored, 1), np.cumsum(~matches & ~ignored, 1)
    found = np.zeros(10)
    for place in range(10):
        if not right.shape[1]:
            continue
        precision = right[place] / np.maximum(right[place] + wrong[place], 1e-9)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right[place] / there, RECALLS, side="left")
        found[place] = np.concatenate([precision, [0]])[np.minimum(at, len(precision))].mean()
    return found


def _mean(table: NDArray[np.float64]) -> float:
    return float(np.nanmean(table)) if np.isfinite(table).any() else float("nan")
