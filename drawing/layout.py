"""Places the tags of objects so that all can be read. Pure geometry, in whole pixels of the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 are exclusive
Rects = NDArray[np.int64]  # [N, 4]


@dataclass(frozen=True)
class TagRequest:
    """A tag to place at `box`. `sizes` has the (width, height) of its forms, in order of preference."""

    box: Rect
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class TagPlacement:
    """Where a tag goes. `form` is the index of its size in the request."""

    rect: Rect
    form: int


def place_tags(
    requests: Sequence[TagRequest], size: tuple[int, int], taken: Sequence[Rect] = ()
) -> list[TagPlacement | None]:
    """Place each tag inside an image of `size` (width, height), without overlapping another tag or a rect of `taken`.

    Greedy, in the order of the requests. A tag goes to the free place where it hides the least of small objects. A tag
    without a free place is left out (None), and so are all further tags once a third of the image is covered.
    """
    tags = list(taken)
    budget = size[0] * size[1] / 3
    small = [
        request.box
        for request in requests
        if request.sizes and _area(request.box) < 2 * request.sizes[0][0] * request.sizes[0][1]
    ]
    placements: list[TagPlacement | None] = []
    for request in requests:
        placement = _place_tag(request, size, tags, small)
        if placement is not None and budget < _area(placement.rect) and any(placements):
            placement = None
        if placement is not None:
            tags.append(placement.rect)
            budget -= _area(placement.rect)
        placements.append(placement)
    return placements


def overlap(rects: Rects, others: Rects) -> NDArray[np.int64]:
    """Return the area in pixels that each of `rects` [N, 4] shares with each of `others` [M, 4]: int64 [N, M]."""
    upper = np.maximum(rects[:, None, :2], others[None, :, :2])
    lower = np.minimum(rects[:, None, 2:], others[None, :, 2:])
    areas: NDArray[np.int64] = np.clip(lower - upper, 0, None).prod(axis=2)
    return areas


def _place_tag(
    request: TagRequest, size: tuple[int, int], tags: Sequence[Rect], small: Sequence[Rect]
) -> TagPlacement | None:
    """Return the placement that overlaps none of `tags` and hides least of `small`; of equals, the most preferred."""
    forms = [(form, tag) for form, tag in enumerate(request.sizes) if tag[0] <= size[0] and tag[1] <= size[1]]
    placements = [TagPlacement(rect, form) for form, tag in forms for rect in _candidates(request.box, tag, size)]
    rects = _array([placement.rect for placement in placements])
    free = np.flatnonzero(~overlap(rects, _array(tags)).any(axis=1))
    if not free.size:
        return None
    hidden = overlap(rects[free], _array(small)).sum(axis=1)
    return placements[int(free[hidden.argmin()])]


def _array(rects: Sequence[Rect]) -> Rects:
    return np.array(rects, dtype=np.int64).reshape(-1, 4)


def _candidates(box: Rect, tag: tuple[int, int], size: tuple[int, int]) -> list[Rect]:
    """Return the places of a tag at a box in order of preference, each moved inside the image."""
    x1, y1, x2, y2 = box
    width, height = tag
    right, bottom = x2 - width, y2 - height
    middle = (x1 + right) // 2
    above, below = y1 - height, y2
    corners = [
        *((x, above) for x in (x1, right, middle)),
        *((x, y1) for x in (x1, right, middle)),
        *((x, below) for x in (x1, right, middle)),
        *((x, bottom) for x in (x1, right, middle)),
        *((x, y) for y in (y1, bottom, (y1 + bottom) // 2) for x in (x2, x1 - width)),
    ]
    return [
        (left, top, left + width, top + height)
        for left, top in ((min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)) for x, y in corners)
    ]


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
