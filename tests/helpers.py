"""What several tests need: photos, their bytes, and networks with random weights whose answers depend on the photo."""

import io

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor


def photo(name: str) -> Image.Image:
    """A photo that scikit-image carries, as RGB: astronaut 512 x 512, chelsea 451 x 300, coffee 600 x 400."""
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def encoded(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    """The bytes of a file in one of Pillow's formats."""
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def as_tensor(image: Image.Image) -> Tensor:
    """A photo as torchvision's detection networks take it, float32 [3, H, W] in 0..1."""
    return pil_to_tensor(image).float() / 255


def coco_rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    """A mask's run-length encoding by pycocotools, with its counts as text."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": tuple(rle["size"]), "counts": rle["counts"].decode()}


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def settle(network: nn.Module, pixels: Tensor) -> None:
    """Give a network with random weights the batch statistics of `pixels`; else its features vanish or explode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)
    network.eval()
