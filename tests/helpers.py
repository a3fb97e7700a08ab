"""Helpers shared by tests: pycocotools' masks, and networks with random weights that react to their input."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.engines import engine, loader

# A second thread helps small networks little and is expensive on busy cores, because it waits by spinning.
torch.set_num_threads(1)


def as_tensor(image: Image.Image) -> Tensor:
    """Return an image as the input of torchvision's detection networks, float32 [3, H, W] in 0..1."""
    return pil_to_tensor(image).float() / 255


def coco_rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    """Encode a mask with pycocotools; the counts are text."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": tuple(rle["size"]), "counts": rle["counts"].decode()}


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def settle(network: nn.Module, pixels: Tensor) -> None:
    """Set a random network's batch statistics to those of `pixels`, so that its features do not vanish or explode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)
    network.eval()


def without_openvino(patch: pytest.MonkeyPatch) -> None:
    """Pretend that OpenVINO is not installed."""
    for module in (engine, loader):
        patch.setattr(module, "has_openvino", lambda: False)
