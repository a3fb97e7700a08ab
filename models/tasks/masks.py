"""Pasting: from mask probabilities within boxes to masks in pixels of the original image."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from foursight.models.results import BoxMask


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[BoxMask, ...]:
    """Paste mask probabilities, float [N, 1, M, M], into boxes, float [N, 4] xyxy, of an image of `size` (h, w).

    The arithmetic is that of torchvision's `paste_masks_in_image` (each mask padded by one and its box grown alike,
    bilinear, threshold 0.5), but only the part inside the box is computed.
    """
    padded, scale = expand_masks(masks, padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    return tuple(_paste_one(mask[0], box, size) for mask, box in zip(padded, corners, strict=True))


def _paste_one(mask: Tensor, box: list[int], size: tuple[int, int]) -> BoxMask:
    x1, y1, x2, y2 = box
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    inside = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0] > 0.5
    left, top = max(x1, 0), max(y1, 0)
    bitmap: NDArray[np.bool_] = inside[top - y1 : size[0] - y1, left - x1 : size[1] - x1].numpy()
    return BoxMask(left, top, bitmap)
