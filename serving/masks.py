"""Masks on their way out: from the bitmap inside a box to COCO's two formats."""

import numpy as np
from contourpy import FillType, contour_generator

from foursight.models.results import BoxMask
from foursight.schema import Polygons, Rle, rle


def to_rle(mask: BoxMask, height: int, width: int) -> Rle:
    """COCO compressed RLE over the photo of `height` x `width` pixels."""
    return rle.encode_part(mask.bitmap, mask.left, mask.top, height, width)


def to_polygons(mask: BoxMask) -> Polygons:
    """The outer outlines, a polygon [x1, y1, x2, y2, ...] each, in pixels of the photo; pixel (0, 0) is [0, 1)^2.

    Marching squares midway between inside and outside pixels. COCO's polygons know no holes: holes are filled.
    """
    padded = np.pad(mask.bitmap, 1).astype(np.float32)
    lines, offsets = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    # Pixel centres lie at +0.5; the padding moved everything by one.
    shift = np.array([mask.left - 0.5, mask.top - 0.5])
    return [
        (points[: offset[1] - 1] + shift).round(1).ravel().tolist()
        for points, offset in zip(lines, offsets, strict=True)
    ]
