"""From a mask's bitmap within a box to COCO's two formats: RLE and polygons."""

import numpy as np
from contourpy import FillType, contour_generator

from foursight.models.results import BoxMask
from foursight.schema import Polygons, Rle, rle


def to_rle(mask: BoxMask, height: int, width: int) -> Rle:
    """Return COCO compressed RLE over an image of `height` x `width` pixels."""
    return rle.encode_part(mask.bitmap, mask.left, mask.top, height, width)


def to_polygons(mask: BoxMask) -> Polygons:
    """Return the outer outlines, one polygon [x1, y1, x2, y2, ...] each, in pixels of the image.

    Pixel (0, 0) covers [0, 1) x [0, 1). Marching squares, halfway between inside and outside pixels. COCO polygons
    cannot have holes: holes are filled.
    """
    padded = np.pad(mask.bitmap, 1).astype(np.float32)
    lines, offsets = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    # Pixel centres are at +0.5; the padding moved everything by one.
    shift = np.array([mask.left - 0.5, mask.top - 0.5])
    return [
        (points[: offset[1] - 1] + shift).round(1).ravel().tolist()
        for points, offset in zip(lines, offsets, strict=True)
    ]
