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

    Greedy: earlier wishes choose first. A tag first looks for a place where it hides no small object either. One that
    finds no place at all is left out (None): the box is still there, and half a tag says nothing.
    """
    tags = list(taken)
    small = [wish.box for wish in wishes if wish.sizes and _area(wish.box) < 2 * wish.sizes[0][0] * wish.sizes[0][1]]
    places: list[Place | None] = []
    for wish in wishes:
        forms = [(form, wide) for form, wide in enumerate(wish.sizes) if wide[0] <= size[0] and wide[1] <= size[1]]
        rects = np.array([rect for _, wide in forms for rect in _candidates(wish.box, wide, size)], dtype=np.int64)
        index = _first_free(rects.reshape(-1, 4), tags, small)
        place = None
        if index is not None:
            x1, y1, x2, y2 = rects[index].tolist()
            place = Place((x1, y1, x2, y2), forms[index // (len(rects) // len(forms))][0])
            tags.append(place.rect)
        places.append(place)
    return places


def overlap(rects: Rects, others: Rects) -> NDArray[np.int64]:
    """The area in pixels that each of `rects` [N, 4] shares with each of `others` [M, 4]: int64 [N, M]."""
    upper = np.maximum(rects[:, None, :2], others[None, :, :2])
    lower = np.minimum(rects[:, None, 2:], others[None, :, 2:])
    areas: NDArray[np.int64] = np.clip(lower - upper, 0, None).prod(axis=2)
    return areas


def _first_free(rects: Rects, tags: Sequence[Rect], small: Sequence[Rect]) -> int | None:
    """The index of the first of `rects` that is over no tag and no small object, else over no tag."""
    hides_tag = overlap(rects, np.array(tags, dtype=np.int64).reshape(-1, 4)).any(axis=1)
    hides_any = hides_tag | overlap(rects, np.array(small, dtype=np.int64).reshape(-1, 4)).any(axis=1)
    for hides in (hides_any, hides_tag):
        if not hides.all():
            return int(hides.argmin())
    return None


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
