"""Pasting: from mask probabilities within boxes to masks in pixels of the original image."""

import numpy as np
from numpy.typing import NDArray

from foursight.models.results import BoxMask

Floats = NDArray[np.float32]


def paste(masks: Floats, boxes: Floats, size: tuple[int, int]) -> tuple[BoxMask, ...]:
    """Paste mask probabilities, float [N, M, M], into boxes, float [N, 4] xyxy, of an image of `size` (h, w).

    The arithmetic is that of torchvision's `paste_masks_in_image` (each mask padded by one and its box grown alike,
    bilinear, threshold 0.5), but only the part inside the box is computed.
    """
    side = masks.shape[-1]
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    centres = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    halves = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((side + 2) / side)
    corners = np.concatenate([centres - halves, centres + halves], 1).astype(np.int64).tolist()
    return tuple(_paste_one(mask, box, size) for mask, box in zip(padded, corners, strict=True))


def _paste_one(mask: Floats, box: list[int], size: tuple[int, int]) -> BoxMask:
    x1, y1, x2, y2 = box
    left, top = max(x1, 0), max(y1, 0)
    rows = _bilinear(len(mask), max(y2 - y1 + 1, 1))[top - y1 : size[0] - y1]
    columns = _bilinear(len(mask), max(x2 - x1 + 1, 1))[left - x1 : size[1] - x1]
    return BoxMask(left, top, rows @ mask @ columns.T > 0.5)


def resample(mask: Floats, box: Floats, other: Floats) -> Floats:
    """Return a mask [M, M] in `box` as a mask of the same size in `other`; boxes are xyxy. Bilinear, 0 outside."""
    cells = np.arange(len(mask)) + 0.5
    weights = []
    for low, high in ((1, 3), (0, 2)):
        # Where the cells of the new mask lie in the old one, in cells of a mask with a margin of zeros.
        pixels = other[low] + cells * (other[high] - other[low]) / len(mask)
        at = ((pixels - box[low]) / max(box[high] - box[low], 1e-6) * len(mask) + 0.5).clip(0, len(mask) + 1)
        weights.append(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(mask) + 2))))
    rows, columns = weights
    resampled: Floats = (rows @ np.pad(mask, 1) @ columns.T).astype(np.float32)
    return resampled


def _bilinear(cells: int, pixels: int) -> Floats:
    """Return the weights [pixels, cells] that resize a row of cells bilinearly, without antialiasing.

    The edges of both rows are the same: `align_corners=False` in PyTorch.
    """
    at = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, None)
    before = at.astype(np.int64)
    after = np.minimum(before + 1, cells - 1)
    part = (at - before).astype(np.float32)
    weights = np.zeros((pixels, cells), np.float32)
    each = np.arange(pixels)
    weights[each, before] = 1 - part
    # Where both are the last cell, the sum is one.
    weights[each, after] += part
    return weights
