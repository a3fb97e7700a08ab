"""The region of an image that an object is classified by: the pixels of its box, and a margin around them."""

import math
from collections.abc import Sequence

from foursight.schema.analyze import MARGIN

# Whole pixels (left, top, right, bottom).
Region = tuple[int, int, int, int]


def region_of(box: Sequence[float], width: int, height: int) -> Region:
    """Return the region of a box, xyxy in pixels, with MARGIN of its sides around it, in an image of that size."""
    left, top, right, bottom = box
    x, y = MARGIN * (right - left), MARGIN * (bottom - top)
    x1, y1 = max(0, math.floor(left - x)), max(0, math.floor(top - y))
    return (
        min(x1, width - 1),
        min(y1, height - 1),
        min(width, max(math.ceil(right + x), x1 + 1)),
        min(height, max(math.ceil(bottom + y), y1 + 1)),
    )
