"""How good answers are: pycocotools' figures for boxes and masks, and top-k accuracy for labels. Needs no torch.

The model card's figures and those of `foursight evaluate` both come from here.
"""

import contextlib
import copy
import io
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Figures = dict[str, float]
# None: not to be measured here.
Some = dict[str, float | None]
Kind = Literal["bbox", "segm"]

# COCOeval.stats in its order: AP is over IoU .50:.95, AR after 1, 10 and 100 detections; sizes by area in pixels,
# small < 32^2 <= medium < 96^2 <= large (Lin et al. 2014; cocodataset.org/#detection-eval).
OVERALL = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
# An answer counts as given in a photo's own tally from this score on: the server's default threshold.
GIVEN_SCORE = 0.5
# The main object of a photo, which a localizer is to find, covers so much of it.
MEASURED_SHARE = 0.1
_IOU50, _IOU75, _ALL_AREAS, _HUNDRED = 0, 5, 0, -1


@dataclass(frozen=True)
class Tally:
    """One photo's objects at IoU 0.5 and GIVEN_SCORE: found, missed, and answers that are no object."""

    image_id: int
    found: int
    missed: int
    wrong: int

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + wrong); 1 where there was nothing and nothing was said."""
        errors = self.missed + self.wrong
        return 2 * self.found / (2 * self.found + errors) if self.found + errors else 1.0


@dataclass(frozen=True)
class Measured:
    """What pycocotools says of the answers for a set of photos.

    `overall` has the figures of OVERALL in 0..1, over the categories that have an object; None where no object is of
    that size. `classes` has ap, ap50, ap75, ar100 and the number of objects by category id; a category without an
    object (crowds do not count) is left out. `photos` has a tally for each photo. `precision` has, by category id, the
    precision at IoU .5 for recalls of 0, .01 .. 1, float64 [101]; zero where a recall is not reached.
    """

    overall: dict[str, float | None]
    classes: dict[int, Figures]
    photos: tuple[Tally, ...]
    precision: dict[int, NDArray[np.float64]]


@dataclass(frozen=True)
class Located:
    """What a localizer made of a photo: the main object's class, the IoU with its box, whether the label is right.

    `label` is None where the model has no such label.
    """

    name: str
    overlap: float
    label: bool | None

    @property
    def hits(self) -> bool:
        """Whether the box counts."""
        return self.overlap >= 0.5

    @property
    def is_right(self) -> bool:
        """Whether all that can be judged is right."""
        return self.hits and self.label is not False


def measure(
    instances: Path | dict[str, Any],
    image_ids: Collection[int],
    results: Sequence[dict[str, Any]],
    kind: Kind,
    category_ids: Collection[int] | None = None,
) -> Measured:
    """Measure answers in COCO's results format by a COCO file, or its content, on the photos and categories named.

    Raises ValueError, KeyError or TypeError where the file is not what COCO's format says.
    """
    truth = _read(instances)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes([dict(result) for result in results]) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = sorted(image_ids)
        if category_ids is not None:
            evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    overall = {
        name: round(float(value), 4) if value > -1 else None
        for name, value in zip(OVERALL, evaluation.stats, strict=True)
    }
    classes = _classes(truth, evaluation)
    every = evaluation.eval["precision"][_IOU50, :, :, _ALL_AREAS, _HUNDRED]
    precision = {number: every[:, evaluation.params.catIds.index(number)] for number in classes}
    return Measured(overall, classes, _tallies(evaluation), precision)


def accuracy(truth: Sequence[str], ranked: Sequence[Sequence[str]], labels: int) -> tuple[Some, dict[str, Some]]:
    """Top-1 and top-5 accuracy and the number of photos, over all and by class.

    `truth` has each photo's class, `ranked` the classes answered for it, best first. A model of so many `labels` as
    five or fewer has no top-5: it would name them all.
    """
    rows = [(name, name in best[:1], name in best[:5]) for name, best in zip(truth, ranked, strict=True)]

    def shares(some: Sequence[tuple[str, bool, bool]]) -> Some:
        return {
            "top1": _mean([first for _, first, _ in some]),
            "top5": _mean([among for _, _, among in some]) if labels > 5 else None,
            "photos": len(some),
        }

    return shares(rows), {name: shares([row for row in rows if row[0] == name]) for name in sorted(set(truth))}


def main_object(objects: Sequence[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any] | None:
    """The annotation with the largest box, crowds left out, if it covers MEASURED_SHARE of a photo (width, height)."""
    several = [item for item in objects if not item.get("iscrowd")]
    largest = max(several, key=lambda item: item["bbox"][2] * item["bbox"][3], default=None)
    if largest is None or largest["bbox"][2] * largest["bbox"][3] < MEASURED_SHARE * size[0] * size[1]:
        return None
    return largest


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes, xyxy."""
    sides = [min(one[end], other[end]) - max(one[end - 2], other[end - 2]) for end in (2, 3)]
    shared = max(sides[0], 0.0) * max(sides[1], 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (both - shared) if both > shared else 0.0


def localization(rows: Sequence[Located]) -> tuple[Some, dict[str, Some]]:
    """MaxBoxAcc at IoU .5 (Choe et al. 2020), mean IoU, and labels, over all photos and by the main object's class.

    `label` is the share of right labels, and `label_and_box` that of photos with both right (top-1 localization,
    Russakovsky et al. 2015); both over photos whose label the model has, and None where there is none.
    """

    def shares(some: Sequence[Located]) -> Some:
        judged = [row for row in some if row.label is not None]
        return {
            "max_box_acc_50": _mean([row.hits for row in some]),
            "mean_iou": _mean([row.overlap for row in some]),
            "label": _mean([bool(row.label) for row in judged]) if judged else None,
            "label_and_box": _mean([row.is_right for row in judged]) if judged else None,
            "photos": len(some),
        }

    return shares(rows), {name: shares([r for r in rows if r.name == name]) for name in sorted({r.name for r in rows})}


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / max(len(values), 1), 4)


def _read(instances: Path | dict[str, Any]) -> COCO:
    listing = json.loads(instances.read_text()) if isinstance(instances, Path) else copy.deepcopy(instances)
    # pycocotools takes an annotation with the id 0 for no match at all, and needs what some tools leave out.
    for number, item in enumerate(listing["annotations"], 1):
        item["id"] = number
        item.setdefault("iscrowd", 0)
        item.setdefault("area", item["bbox"][2] * item["bbox"][3])
    truth = COCO()
    truth.dataset = listing
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _classes(truth: COCO, evaluation: COCOeval) -> dict[int, Figures]:
    counts = Counter(
        item["category_id"] for item in truth.loadAnns(truth.getAnnIds(imgIds=evaluation.params.imgIds, iscrowd=False))
    )
    figures = {}
    for index, category_id in enumerate(evaluation.params.catIds):
        # precision: [IoU threshold, recall, category, area, detections]; recall has no second axis.
        precision = evaluation.eval["precision"][:, :, index, _ALL_AREAS, _HUNDRED]
        recall = evaluation.eval["recall"][:, index, _ALL_AREAS, _HUNDRED]
        if (precision > -1).any():
            figures[int(category_id)] = {
                "ap": round(float(precision.mean()), 4),
                "ap50": round(float(precision[_IOU50].mean()), 4),
                "ap75": round(float(precision[_IOU75].mean()), 4),
                "ar100": round(float(recall.mean()), 4),
                "objects": counts[category_id],
            }
    return figures


def _tallies(evaluation: COCOeval) -> tuple[Tally, ...]:
    found: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    wrong: Counter[int] = Counter()
    for one in evaluation.evalImgs:
        if one is None or one["aRng"] != evaluation.params.areaRng[_ALL_AREAS]:
            continue
        given = (np.asarray(one["dtScores"]) >= GIVEN_SCORE) & (one["dtIgnore"][_IOU50] == 0)
        matched = one["dtMatches"][_IOU50] > 0
        photo = int(one["image_id"])
        found[photo] += int((given & matched).sum())
        wrong[photo] += int((given & ~matched).sum())
        objects[photo] += int((np.asarray(one["gtIgnore"]) == 0).sum())
    return tuple(
        Tally(photo, found[photo], objects[photo] - found[photo], wrong[photo]) for photo in evaluation.params.imgIds
    )
