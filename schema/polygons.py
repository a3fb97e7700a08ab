"""Filling COCO polygons, in numpy alone."""

import numpy as np

from foursight.schema import Polygons
from foursight.schema.rle import Mask


def fill(polygons: Polygons, height: int, width: int) -> Mask:
    """Return the pixels whose centres lie inside at least one outline, bool [`height`, `width`].

    Outlines are [x1, y1, x2, y2, ...] in pixels. Pixel (0, 0) is [0, 1)^2, and its centre (0.5, 0.5). An outline that
    crosses itself is filled by the even-odd rule.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    for outline in polygons:
        points = np.asarray(outline, dtype=np.float64).reshape(-1, 2)
        if len(points) >= 3:
            mask |= _fill(points, height, width)
    return mask


def _fill(points: np.ndarray[tuple[int, ...], np.dtype[np.float64]], height: int, width: int) -> Mask:
    x1, y1 = points.T
    x2, y2 = np.roll(points, -1, axis=0).T
    # Each edge crosses the centre lines of rows first <= row < last.
    first = np.clip(np.ceil(np.minimum(y1, y2) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y1, y2) - 0.5), 0, height).astype(np.int64)
    counts = last - first
    edges = np.repeat(np.arange(len(points)), counts)
    rows = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts) + first[edges]
    slopes = (x2 - x1)[edges] / (y2 - y1)[edges]
    columns = np.ceil(x1[edges] + (rows + 0.5 - y1[edges]) * slopes - 0.5)
    # Each crossing toggles between inside and outside for all pixels to the right of it.
    turns = np.zeros((height, width + 1), dtype=np.bool_)
    np.logical_xor.at(turns, (rows, np.clip(columns, 0, width).astype(np.int64)), True)
    inside: Mask = np.logical_xor.accumulate(turns, axis=1)[:, :width]
    return inside
