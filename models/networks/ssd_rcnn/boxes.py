"""From the outputs of the SSD's heads to objects: anchors, box coder, NMS (Liu et al. 2016), in NumPy.

A worker whose network runs on an engine needs no PyTorch for it.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foursight.models import coco

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

# Sides of the two inputs in pixels: the one that the SSD was trained at, and the larger one.
SIDE, FINE_SIDE = 300, 480
LEVELS = 6
# How many cells of each gated map are picked, and the number of the anchors' shapes there.
PICKED = {"fine": (100, 3), "ssd0": (60, 3), "ssd1": (30, 6)}
# A row for each anchor: 4 offsets (y, x, log h, log w) and a logit for each class.
WIDTH = 4 + len(coco.IDS)
# The pipeline's `faster_rcnn_box_coder`: offsets of centres are times 10, of log sides times 5.
CENTRE_SCALE, SIDE_SCALE = 10.0, 5.0
# The pipeline's `ssd_anchor_generator`: scales from .2 to .95 of the image's side; the first map has its own three.
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)
FIRST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))
# Anchors of each image that become proposals: all 4,617 find nothing more (AP .367 either way on 142 images).
CANDIDATES = 300
# A proposal is dropped if its IoU with a better one is higher, whatever their classes.
DUPLICATE_IOU = 0.8
NMS_IOU = 0.5
SCORE_THRESHOLD = 0.05
# Pairs of a box and a class that go into NMS, and objects of an image.
PAIRS, OBJECTS = 1000, 100


def proposals(rows: Floats, cells: Indices) -> Floats:
    """Map an image's rows [A, 84] and picked cells [190] to its proposals [P, 4 + 80], best first.

    A proposal is a box xyxy in pixels of the image at 480 x 480, and the logits of the 80 classes.
    """
    best = np.argsort(-rows[:, 4:].max(1), kind="stable")[:CANDIDATES]
    boxes = decode(rows[best, :4], _anchors_of(cells)[best]) * np.float32(FINE_SIDE)
    boxes = boxes.clip(0, FINE_SIDE)
    kept = nms(boxes, DUPLICATE_IOU)
    return np.concatenate([boxes[kept], rows[best[kept], 4:]], 1)


def detections(boxes: Floats, logits: Floats, threshold: float = SCORE_THRESHOLD) -> tuple[Floats, Floats, Indices]:
    """Map proposals, boxes [P, 4] and logits [P, K], to objects: boxes [N, 4], scores [N], class indices 1..K [N].

    Scores are sigmoids; NMS is per class, as in Faster R-CNN (Ren et al. 2015).
    """
    scores = sigmoid(logits)
    rows, classes = (scores > threshold).nonzero()
    order = np.argsort(-scores[rows, classes], kind="stable")[:PAIRS]
    rows, classes = rows[order], classes[order]
    overlaps = iou(boxes) > NMS_IOU
    suppressed = np.zeros((logits.shape[1], len(boxes)), np.bool_)
    kept: list[int] = []
    for index, (row, label) in enumerate(zip(rows.tolist(), classes.tolist(), strict=True)):
        if not suppressed[label, row]:
            kept.append(index)
            suppressed[label] |= overlaps[row]
        if len(kept) == OBJECTS:
            break
    rows, classes = rows[kept], classes[kept]
    return boxes[rows], scores[rows, classes], classes + 1


def nms(boxes: Floats, threshold: float) -> Indices:
    """Return the indices of the boxes [N, 4], best first, whose IoU with each better one that is kept is not higher."""
    apart = ~(iou(boxes) > threshold)
    alive = np.ones(len(boxes), np.bool_)
    for index in range(len(boxes)):
        if alive[index]:
            alive[index + 1 :] &= apart[index, index + 1 :]
    return alive.nonzero()[0]


def iou(boxes: Floats) -> Floats:
    """Return the intersection over union of each two of boxes [N, 4], [N, N]; NaN for two boxes without area."""
    # Whole columns: with the coordinates as the last axis, this takes five times as long.
    left, top, right, bottom = np.ascontiguousarray(boxes.T)
    width = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    height = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    shared = width.clip(0) * height.clip(0)
    area = (right - left) * (bottom - top)
    with np.errstate(invalid="ignore"):
        overlaps: Floats = shared / (area[:, None] + area - shared)
    return overlaps


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), float32."""
    with np.errstate(over="ignore"):
        scores: Floats = np.reciprocal(1 + np.exp(-logits))
    return scores


def decode(offsets: Floats, anchors: Floats) -> Floats:
    """Map offsets [A, 4] (y, x, log h, log w) from anchors [A, 4] to boxes [A, 4], xyxy in 0..1."""
    centres = offsets[:, 1::-1] / np.float32(CENTRE_SCALE) * anchors[:, 2:] + anchors[:, :2]
    halves = np.exp(offsets[:, :1:-1] / np.float32(SIDE_SCALE)) * anchors[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], 1)


def _anchors_of(cells: Indices) -> Floats:
    """Return the anchors [A, 4] of an image's rows: of the picked cells [190], then of the small maps, all of them."""
    found, start = [], 0
    for name, table in _tables().items():
        count = PICKED[name][0] if name in PICKED else len(table)
        own = cells[start : start + count] if name in PICKED else slice(None)
        found.append(table[own].reshape(-1, 4))
        start += count
    return np.concatenate(found)


@cache
def _tables() -> dict[str, Floats]:
    """Return the anchors of each cell of the gated maps, [cells, shapes, 4], and those of the small maps, [A, 4]."""
    coarse = anchors(SIDE, SIDE)
    ends = np.cumsum([len(centres(SIDE, level)) ** 2 * len(shapes(level)) for level in range(2)])
    parts = {
        "fine": anchors(FINE_SIDE, FINE_SIDE, relative=False, levels=1),
        "ssd0": coarse[: ends[0]],
        "ssd1": coarse[ends[0] : ends[1]],
    }
    return {name: part.reshape(-1, PICKED[name][1], 4) for name, part in parts.items()} | {"rest": coarse[ends[1] :]}


def anchors(height: int, width: int, relative: bool = True, levels: int = LEVELS) -> Floats:
    """Return the anchors of the first maps of an input of `height` x `width` pixels: [A, 4] (cx, cy, w, h) in 0..1.

    They are in order of (level, y, x, shape). At 300 x 300 they are those of the graph. At other sizes their sides are
    the same share of the image with `relative`, else the same number of pixels.
    """
    found = []
    unit = np.array([1, 1] if relative else [SIDE / width, SIDE / height], np.float32)
    for level in range(levels):
        scale, ratio = np.array(shapes(level), np.float32).T
        sizes = np.stack([scale * np.sqrt(ratio), scale / np.sqrt(ratio)], 1) * unit
        grid = np.stack(np.meshgrid(centres(width, level), centres(height, level)), -1)[:, :, None]
        places = np.broadcast_to(grid, (*grid.shape[:2], len(sizes), 2))
        found.append(np.concatenate([places, np.broadcast_to(sizes, places.shape)], -1).reshape(-1, 4))
    return np.concatenate(found)


def shapes(level: int) -> list[tuple[float, float]]:
    """Return a map's anchors as (scale, aspect ratio), in the graph's order."""
    if level == 0:
        return list(FIRST)
    own = [(SCALES[level], ratio) for ratio in RATIOS]
    return [*own, (math.sqrt(SCALES[level] * SCALES[level + 1]), 1.0)]


def centres(size: int, level: int) -> Floats:
    """Return the centres of a map's anchors along a side of `size` pixels, [cells] in 0..1.

    At 300 pixels, cell i of n is centred at (i + .5) / n. The receptive field of the cell is centred at stride * i +
    first instead, where `first` depends on which of the sides on the way are odd ("SAME" padding). The network has
    learnt the mean difference of the two, so at other sizes the anchors are placed where that difference is the same.
    Without this, AP at 416 pixels is .237 instead of .297.
    """
    cells, first, stride = receptive(size, level)
    if size == SIDE:
        return ((np.arange(cells) + 0.5) / cells).astype(np.float32)
    trained, trained_first, _ = receptive(SIDE, level)
    # Mean of stride * i + first - (i + .5) * SIDE / trained over the cells.
    learnt = trained_first + stride * (trained - 1) / 2 - SIDE / 2
    return ((np.arange(cells) * stride + (first - learnt)) / size).astype(np.float32)


def receptive(size: int, level: int) -> tuple[int, float, int]:
    """Return the cells of a map along a side of `size` pixels, the first receptive field's centre, and the stride."""
    first, stride = 0.5, 1
    for _ in range(4 + level):
        # A 3-tap filter of stride 2 starts at the first pixel of an even side, one before that of an odd one.
        first += stride * (1 - size % 2)
        size, stride = -(-size // 2), stride * 2
    return size, first, stride
