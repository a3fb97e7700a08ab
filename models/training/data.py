"""Photos with boxes and masks in COCO's format, split and augmented, as torchvision's detectors take them."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.errors import ImageError
from foursight.models.image import decode

FOLDERS = ("coco", "pennfudan")
# Windows of a photo for training: from a photo shrunk into grey to a part of it enlarged.
SMALLEST_ZOOM, LARGEST_ZOOM = 0.6, 1.8
# An object cut by the window stays a target where this share of its area is still seen.
SEEN_SHARE = 0.3
GREY = 127


@dataclass(frozen=True)
class Photo:
    """A photo of a set, its `size` (height, width), and its objects: COCO annotations with `segmentation` as RLE.

    `crowds` are the annotations of groups: nothing is learnt from them, and what is found in them is not wrong.
    `digest` is the SHA-256 of the file.
    """

    folder: str
    path: Path
    image_id: int
    size: tuple[int, int]
    objects: tuple[dict[str, Any], ...]
    crowds: tuple[dict[str, Any], ...] = ()
    digest: str = ""

    @property
    def is_validation(self) -> bool:
        """Which side of the split it is on."""
        return in_validation(self.folder, self.path.name)

    def image(self) -> Image.Image:
        """Its pixels, upright RGB. Raises ImageError, also where its size is not what the listing says."""
        image = decode(self.path.read_bytes())
        if image.size != self.size[::-1]:
            found, said = (" x ".join(map(str, size)) for size in (image.size, self.size[::-1]))
            raise ImageError("not_an_image", f"The photo is {found} pixels, the listing says {said}.", "Correct it.")
        return image

    def boxes(self) -> Tensor:
        """The boxes of its objects, float32 [M, 4] xyxy in pixels."""
        xywh = torch.tensor([item["bbox"] for item in self.objects], dtype=torch.float32).reshape(-1, 4)
        return torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1)

    def proportion(self) -> float:
        """Width over height."""
        return self.size[1] / self.size[0]


def in_validation(folder: str, file_name: str) -> bool:
    """The split: a fifth of the photos, by the hash of "folder/file_name"."""
    return int(hashlib.sha256(f"{folder}/{file_name}".encode()).hexdigest(), 16) % 5 == 0


def read(data: Path, folders: tuple[str, ...] = FOLDERS) -> list[Photo]:
    """All photos of the sets in a folder, each with `images/` and `instances.json`. Crowds are left out."""
    photos = []
    for folder in folders:
        listing = json.loads((data / folder / "instances.json").read_text())
        objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in listing["images"]}
        sizes = {image["id"]: (image["height"], image["width"]) for image in listing["images"]}
        for annotation in listing["annotations"]:
            if not annotation["iscrowd"]:
                rle = as_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
                objects[annotation["image_id"]].append(annotation | {"segmentation": rle})
        photos += [
            Photo(
                folder,
                data / folder / "images" / image["file_name"],
                image["id"],
                sizes[image["id"]],
                tuple(objects[image["id"]]),
            )
            for image in listing["images"]
        ]
    return photos


def as_rle(segmentation: Any, height: int, width: int) -> Any:
    """COCO's compressed RLE of polygons, of an uncompressed RLE or of itself."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def sample(photo: Photo, indices: dict[int, int], chance: random.Random) -> tuple[Tensor, dict[str, Tensor]]:
    """One augmented view: pixels float32 [3, H, W] in 0..1 and torchvision's target in pixels of the view.

    `boxes` float32 [N, 4] xyxy, `labels` int64 [N] by `indices` (COCO category id to class index), `masks` uint8
    [N, H, W].
    """
    image = photo.image()
    known = [item for item in photo.objects if item["category_id"] in indices]
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
    """A window of the photo's own proportions, larger or smaller than it, with the objects that it shows."""
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
    keep = (after >= SEEN_SHARE * before) & (sides >= 2) & cut.any((1, 2))
    return canvas, cut[keep], moved[keep], labels[keep]
