"""Random views of an image with its boxes and masks, as torchvision's detectors take them."""

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.training.detection_data import AnnotatedImage

# Windows: from the image shrunk on grey to a part of it enlarged.
SMALLEST_ZOOM, LARGEST_ZOOM = 0.6, 1.8
# An object cut by the window stays a target if at least this share of its area is visible.
VISIBLE_SHARE = 0.3
GREY = 127


def random_view(
    annotated: AnnotatedImage, indices: dict[int, int], chance: random.Random
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a random view: pixels float32 [3, H, W] in 0..1, and torchvision's target in pixels of the view.

    `boxes` float32 [N, 4] xyxy, `labels` int64 [N] by `indices` (COCO category id to class index), `masks` uint8
    [N, H, W].
    """
    image = annotated.image()
    known = [item for item in annotated.objects if item["category_id"] in indices]
    masks = np.zeros((len(known), image.height, image.width), np.uint8)
    for row, item in zip(masks, known, strict=True):
        row[:] = coco_mask.decode(item["segmentation"])
    boxes = np.array([item["bbox"] for item in known], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([indices[item["category_id"]] for item in known], np.int64)
    image, masks, boxes, labels = _window(image, masks, boxes, labels, chance)
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        masks = masks[:, :, ::-1]
        boxes = np.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1)
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(labels),
        "masks": torch.from_numpy(masks.copy()),
    }
    return pil_to_tensor(image).float() / 255, target


def _window(
    image: Image.Image, masks: NDArray[Any], boxes: NDArray[Any], labels: NDArray[Any], chance: random.Random
) -> tuple[Image.Image, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return a window with the image's aspect ratio, larger or smaller than it, and its visible objects."""
    zoom = chance.uniform(SMALLEST_ZOOM, LARGEST_ZOOM) if chance.random() < 0.8 else 1.0
    width, height = round(image.width / zoom), round(image.height / zoom)
    left = round(chance.uniform(*sorted((0, image.width - width))))
    top = round(chance.uniform(*sorted((0, image.height - height))))
    canvas = Image.new("RGB", (width, height), (GREY,) * 3)
    canvas.paste(image, (-left, -top))
    cut = np.zeros((len(masks), height, width), np.uint8)
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, image.width), min(top + height, image.height)
    cut[:, y1 - top : y2 - top, x1 - left : x2 - left] = masks[:, y1:y2, x1:x2]
    moved = (boxes - np.array([left, top, left, top])).clip(0, [width, height, width, height])
    before, after = ((b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, moved))
    sides = (moved[:, 2:] - moved[:, :2]).min(1, initial=np.inf)
    keep = (after >= VISIBLE_SHARE * before) & (sides >= 2) & cut.any((1, 2))
    return canvas, cut[keep], moved[keep], labels[keep]
