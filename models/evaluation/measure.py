"""Metrics: AP and AR of boxes and masks by pycocotools, localization accuracy, top-k accuracy. Needs no torch."""

import contextlib
import copy
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Figures = dict[str, float]
# None means that the data does not allow the measurement.
Metrics = dict[str, float | None]
Kind = Literal["bbox", "segm"]

# COCOeval.stats in its order: AP is over IoU .50:.95, AR after 1, 10 and 100 detections; sizes by area in pixels,
# small < 32^2 <= medium < 96^2 <= large (Lin et al. 2014; cocodataset.org/#detection-eval).
OVERALL = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip
# An image's own score counts detections from this score on, the server's default threshold.
COUNTED_SCORE = 0.5
# The main object of an image, which a localizer should find, covers at least this share of it.
MAIN_OBJECT_SHARE = 0.1
_IOU50, _IOU75, _ALL_AREAS, _HUNDRED = 0, 5, 0, -1


@dataclass(frozen=True)
class ImageScore:
    """The counts of one image at IoU 0.5 and COUNTED_SCORE: objects found and missed, and wrong detections."""

    image_id: int
    found: int
    missed: int
    wrong: int

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + wrong); 1 without objects and without detections."""
        errors = self.missed + self.wrong
        return 2 * self.found / (2 * self.found + errors) if self.found + errors else 1.0


@dataclass(frozen=True)
class CocoMetrics:
    """pycocotools' metrics of the predictions for a set of images.

    `overall` has the metrics of OVERALL in 0..1, over the categories that have an object; None if no object has that
    size. `classes` has ap, ap50, ap75, ar100 and the number of objects by category id, without the categories that have
    no object (crowds do not count). `images` has the score of each image. `precision` has, by category id, the
    precision at IoU .5 for recalls of 0, .01 .. 1, float64 [101]; zero if a recall is not reached.
    """

    overall: Metrics
    classes: dict[int, Figures]
    images: tuple[ImageScore, ...]
    precision: dict[int, NDArray[np.float64]]


@dataclass(frozen=True)
class Located:
    """A localizer's prediction for an image: the main object's class, the IoU with its box, whether the label is right.

    `label` is None if the model does not have the label.
    """

    name: str
    overlap: float
    label: bool | None

    @property
    def hits(self) -> bool:
        """Whether the box is right (IoU 0.5)."""
        return self.overlap >= 0.5

    @property
    def is_right(self) -> bool:
        """Whether the box is right, and the label if the model has it."""
        return self.hits and self.label is not False


def coco_results(
    image_id: int,
    boxes: ArrayLike,
    scores: Iterable[float],
    category_ids: Iterable[int],
    masks: Iterable[NDArray[np.bool_] | Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Return an image's detections in COCO's results format.

    `boxes` is [N, 4] xyxy in pixels; a mask is bool [H, W] of the whole image, or an RLE of it as COCO has it.
    """
    corners = np.asarray(boxes).reshape(-1, 4)
    xywh = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1).tolist()
    results = [
        {"image_id": image_id, "category_id": int(category_id), "bbox": box, "score": float(score)}
        for box, score, category_id in zip(xywh, scores, category_ids, strict=True)
    ]
    if masks is not None:
        for result, mask in zip(results, masks, strict=True):
            result["segmentation"] = dict(mask) if isinstance(mask, Mapping) else encode_mask(mask)
    return results


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's compressed RLE of a mask, bool [H, W]."""
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return rle


def measure(
    instances: Path | dict[str, Any],
    image_ids: Collection[int],
    results: Sequence[dict[str, Any]],
    kind: Kind,
    category_ids: Collection[int] | None = None,
) -> CocoMetrics:
    """Measure predictions in COCO's results format against a COCO file, or its content, on some images and categories.

    Raises ValueError, KeyError or TypeError if the file is not in COCO's format.
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
    return CocoMetrics(overall, classes, _image_scores(evaluation), precision)


def accuracy(truth: Sequence[str], ranked: Sequence[Sequence[str]], labels: int) -> tuple[Metrics, dict[str, Metrics]]:
    """Return top-1 and top-5 accuracy in 0..1 and the number of images, over all and by class.

    `truth` has the class of each image, `ranked` the predicted classes, best first. With five or fewer `labels`, top-5
    is None: it would always be 1.
    """
    rows = [(name, name in best[:1], name in best[:5]) for name, best in zip(truth, ranked, strict=True)]

    def shares(some: Sequence[tuple[str, bool, bool]]) -> Metrics:
        return {
            "top1": _mean([first for _, first, _ in some]),
            "top5": _mean([among for _, _, among in some]) if labels > 5 else None,
            "photos": len(some),
        }

    return shares(rows), {name: shares([row for row in rows if row[0] == name]) for name in sorted(set(truth))}


def main_object(objects: Sequence[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any] | None:
    """Return the annotation with the largest box, without crowds, if it covers MAIN_OBJECT_SHARE of `size`.

    `size` is the (width, height) of the image.
    """
    several = [item for item in objects if not item.get("iscrowd")]
    largest = max(several, key=lambda item: item["bbox"][2] * item["bbox"][3], default=None)
    if largest is None or largest["bbox"][2] * largest["bbox"][3] < MAIN_OBJECT_SHARE * size[0] * size[1]:
        return None
    return largest


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes, xyxy."""
    sides = [min(one[end], other[end]) - max(one[end - 2], other[end - 2]) for end in (2, 3)]
    shared = max(sides[0], 0.0) * max(sides[1], 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (both - shared) if both > shared else 0.0


def localization(rows: Sequence[Located]) -> tuple[Metrics, dict[str, Metrics]]:
    """Return MaxBoxAcc at IoU .5 (Choe et al. 2020), mean IoU and labels, over all images and by main object's class.

    `label` is the share of right labels, `label_and_box` that of images with both right (top-1 localization,
    Russakovsky et al. 2015); both over the images whose label the model has, and None if there are none.
    """

    def shares(some: Sequence[Located]) -> Metrics:
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
    # pycocotools takes the annotation id 0 for "no match", and requires fields that some tools leave out.
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


def _image_scores(evaluation: COCOeval) -> tuple[ImageScore, ...]:
    found: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    wrong: Counter[int] = Counter()
    for one in evaluation.evalImgs:
        if one is None or one["aRng"] != evaluation.params.areaRng[_ALL_AREAS]:
            continue
        counted = (np.asarray(one["dtScores"]) >= COUNTED_SCORE) & (one["dtIgnore"][_IOU50] == 0)
        matched = one["dtMatches"][_IOU50] > 0
        image = int(one["image_id"])
        found[image] += int((counted & matched).sum())
        wrong[image] += int((counted & ~matched).sum())
        objects[image] += int((np.asarray(one["gtIgnore"]) == 0).sum())
    return tuple(
        ImageScore(image, found[image], objects[image] - found[image], wrong[image])
        for image in evaluation.params.imgIds
    )
