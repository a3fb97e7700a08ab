"""Where the tags of objects go, so that they can all be read: pure geometry, in whole pixels of the photo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2; x2 and y2 lie outside
Rects = NDArray[np.int64]  # [N, 4]


@dataclass(frozen=True)
class Wish:
    """A tag to be placed at `box`; `sizes` (width, height) of its forms, the one liked best first."""

    box: Rect
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Place:
    """Where a tag goes: `form` is the index of the size that fits there."""

    rect: Rect
    form: int


def place_tags(wishes: Sequence[Wish], size: tuple[int, int], taken: Sequence[Rect] = ()) -> list[Place | None]:
    """A place for each tag in a photo of `size` (width, height): all inside it, none over another or over `taken`.

    Greedy: earlier wishes choose first. Among the places that are free, a tag takes the one that hides least of small
    objects. One that finds no place is left out (None), and so are all after tags cover a third of the photo: the boxes
    are still there, and half a tag says nothing.
    """
    tags = list(taken)
    budget = size[0] * size[1] / 3
    small = [wish.box for wish in wishes if wish.sizes and _area(wish.box) < 2 * wish.sizes[0][0] * wish.sizes[0][1]]
    places: list[Place | None] = []
    for wish in wishes:
        place = _place(wish, size, tags, small)
        if place is not None and budget < _area(place.rect) and any(places):
            place = None
        if place is not None:
            tags.append(place.rect)
            budget -= _area(place.rect)
        places.append(place)
    return places


def overlap(rects: Rects, others: Rects) -> NDArray[np.int64]:
    """The area in pixels that each of `rects` [N, 4] shares with each of `others` [M, 4]: int64 [N, M]."""
    upper = np.maximum(rects[:, None, :2], others[None, :, :2])
    lower = np.minimum(rects[:, None, 2:], others[None, :, 2:])
    areas: NDArray[np.int64] = np.clip(lower - upper, 0, None).prod(axis=2)
    return areas


def _place(wish: Wish, size: tuple[int, int], tags: Sequence[Rect], small: Sequence[Rect]) -> Place | None:
    """The best place over none of `tags`: the one that hides least of `small`, and of those the one liked best."""
    forms = [(form, tag) for form, tag in enumerate(wish.sizes) if tag[0] <= size[0] and tag[1] <= size[1]]
    places = [Place(rect, form) for form, tag in forms for rect in _candidates(wish.box, tag, size)]
    rects = _array([place.rect for place in places])
    free = np.flatnonzero(~overlap(rects, _array(tags)).any(axis=1))
    if not free.size:
        return None
    hidden = overlap(rects[free], _array(small)).sum(axis=1)
    return places[int(free[hidden.argmin()])]


def _array(rects: Sequence[Rect]) -> Rects:
    return np.array(rects, dtype=np.int64).reshape(-1, 4)


def _candidates(box: Rect, tag: tuple[int, int], size: tuple[int, int]) -> list[Rect]:
    """Places of a tag at a box, best first, each moved into the photo: so "above" is inside where there is no room."""
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
