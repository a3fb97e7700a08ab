"""Sliced inference for small objects in large images (Akyon et al. 2022, https://arxiv.org/abs/2202.06934).

The image is searched as a whole, and again in overlapping square tiles, where small objects are larger for the network.
An object that a tile's border cuts is found in part, so the parts are joined.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from foursight.models.region import Region
from foursight.models.tasks.masks import resample
from foursight.models.tasks.objects import RawDetections

Floats = NDArray[np.float32]

# Share of a tile's side that neighbours have in common.
OVERLAP = 0.2
# Boxes of one object, found twice: intersection over union.
SAME = 0.5
# A part and its object, or two parts: intersection over the smaller area.
PART = 0.5
# A box that is this close to a border inside the image, in sides of the tile, is cut by it.
CUT = 0.02


def views(size: tuple[int, int], tiles: int) -> list[Region]:
    """Return the image of `size` (width, height) as a whole, then its tiles: `tiles` along the longer side."""
    whole = [(0, 0, *size)]
    if tiles == 1:
        return whole
    side = max(size) / (tiles - OVERLAP * (tiles - 1))
    columns, rows = (_spans(length, side) for length in size)
    return whole + [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]


def count_views(tiles: int) -> int:
    """Return the largest number of views that an image can have."""
    return 1 if tiles == 1 else 1 + tiles**2


def join(found: Sequence[RawDetections], limit: int) -> RawDetections:
    """Return the objects in all views of an image, the whole one first; at most `limit`, best first."""
    whole = found[0]
    if len(found) == 1:
        return whole
    shift = [np.array(one.origin[::-1] * 2, np.float32) for one in found]
    boxes = np.concatenate([one.boxes + by for one, by in zip(found, shift, strict=True)])
    scores = np.concatenate([one.scores for one in found])
    indices = np.concatenate([one.indices for one in found])
    view = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])
    cut = np.concatenate([_is_cut(one, whole.size) for one in found])
    # Complete objects first, each kind with the best first.
    order = np.lexsort((-scores, cut))
    groups: list[list[int]] = []
    for at in order.tolist():
        same = [
            group
            for group in groups
            if indices[group[0]] == indices[at]
            and view[at] not in view[group]
            and _matches(_hull(boxes[group]), boxes[at], part=bool(cut[at]))
        ]
        if same:
            same[0].append(at)
        else:
            groups.append([at])
    groups.sort(key=lambda group: -float(scores[group].max()))
    joined = [_join(group, boxes, cut) for group in groups[:limit]]
    masks = whole.masks
    if masks is not None and groups:
        each = np.concatenate([one.masks for one in found if one.masks is not None])
        masks = np.stack([_union(each[kept], boxes[kept], box) for kept, box in joined])
    return replace(
        whole,
        boxes=np.array([box for _, box in joined], np.float32).reshape(-1, 4),
        scores=np.array([scores[group].max() for group in groups[:limit]], np.float32),
        indices=np.array([indices[group[0]] for group in groups[:limit]], np.int64),
        masks=masks,
    )


def _spans(length: int, side: float) -> list[tuple[int, int]]:
    """Return equally spaced intervals of `side` that cover `length` with OVERLAP."""
    if length <= side:
        return [(0, length)]
    steps = math.ceil((length - side) / (side * (1 - OVERLAP)) - 1e-6)
    starts = [round((length - side) * step / steps) for step in range(steps + 1)]
    return [(start, min(length, start + math.ceil(side))) for start in starts]


def _is_cut(found: RawDetections, whole: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which boxes reach a border of their view that is not the image's."""
    (height, width), (top, left) = found.size, found.origin
    near = np.array([width, height, width, height], np.float32) * CUT
    distance = np.abs(found.boxes - np.array([0, 0, width, height], np.float32))
    inside = np.array([left > 0, top > 0, left + width < whole[1], top + height < whole[0]])
    cut: NDArray[np.bool_] = ((distance < near) & inside).any(1)
    return cut


def _matches(one: Floats, other: Floats, part: bool) -> bool:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod((high - low).clip(0)))
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    if part:
        return shared > PART * min(areas)
    return shared > SAME * (sum(areas) - shared)


def _join(group: list[int], boxes: Floats, cut: NDArray[np.bool_]) -> tuple[list[int], Floats]:
    """Return the members that give an object its box and mask, and the box: the best complete one, or all parts."""
    complete = [at for at in group if not cut[at]]
    kept = complete[:1] or group
    return kept, _hull(boxes[kept])


def _hull(boxes: Floats) -> Floats:
    hull: Floats = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    return hull


def _union(masks: Floats, boxes: Floats, hull: Floats) -> Floats:
    """Return the union of masks [N, M, M] in their boxes as one mask [M, M] in `hull`."""
    moved = masks if len(masks) == 1 else [resample(mask, box, hull) for mask, box in zip(masks, boxes, strict=True)]
    union: Floats = np.max(moved, 0)
    return union
