"""Images with several objects each, from COCO files, checked and split."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from foursight.models.errors import DataError
from foursight.models.image import decode
from foursight.models.training import coco_file, datasets, layout
from foursight.models.training.coco_file import Content

Split = Literal["content", "name"]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file, its `size` (height, width), and its objects: COCO annotations with `segmentation` as RLE.

    `crowds` are the annotations of groups: they are not trained on, and a detection on one is not counted as wrong.
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
        """Whether the split by name puts the image into the validation set."""
        return in_validation(self.folder, self.path.name)

    def image(self) -> Image.Image:
        """Return the upright RGB image. Raises ImageError, also if its size is not the one in the COCO file."""
        image = decode(self.path.read_bytes())
        coco_file.check_size(image, (self.size[1], self.size[0]))
        return image

    def boxes(self) -> Tensor:
        """Return the boxes of the objects, float32 [M, 4] xyxy in pixels."""
        xywh = torch.tensor([item["bbox"] for item in self.objects], dtype=torch.float32).reshape(-1, 4)
        return torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1)


def in_validation(folder: str, file_name: str) -> bool:
    """Return whether the split by name validates on an image: a fifth of them, by the hash of "folder/file_name"."""
    return int(hashlib.sha256(f"{folder}/{file_name}".encode()).hexdigest(), 16) % 5 == 0


@dataclass(frozen=True)
class DetectionDataset:
    """Images for training and validation; an object's `category_id` is the index of its label plus one.

    `split` says how the images were split; `notes` lists what was left out.
    """

    labels: tuple[str, ...]
    training: tuple[AnnotatedImage, ...]
    validation: tuple[AnnotatedImage, ...]
    split: str
    notes: tuple[str, ...]

    @property
    def category_ids(self) -> range:
        """Category ids of the labels, in their order."""
        return range(1, len(self.labels) + 1)

    def fingerprint(self) -> str:
        """Return the SHA-256 over labels, images, objects and split."""
        rows = [f"{image.digest} {_objects_digest(image)}" for image in (*self.training, *self.validation)]
        return hashlib.sha256("\n".join((*self.labels, str(len(self.training)), *rows)).encode()).hexdigest()

    def truth(self) -> dict[str, Any]:
        """Return the validation images, with crowds, in COCO's format."""
        rows = [
            item | {"image_id": image.image_id, "iscrowd": crowd}
            for image in self.validation
            for crowd, items in enumerate((image.objects, image.crowds))
            for item in items
        ]
        return {
            "images": [{"id": p.image_id, "height": p.size[0], "width": p.size[1]} for p in self.validation],
            "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
            "categories": [
                {"id": number, "name": label} for number, label in zip(self.category_ids, self.labels, strict=True)
            ],
        }

    def count(self, images: Iterable[AnnotatedImage]) -> list[int]:
        """Return the number of objects of each label."""
        counts = Counter(item["category_id"] for image in images for item in image.objects)
        return [counts[number] for number in self.category_ids]


@dataclass
class _Parts:
    """What was read from the COCO files so far."""

    labels: list[str] = field(default_factory=list)
    images: list[AnnotatedImage] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _objects_digest(image: AnnotatedImage) -> str:
    rows = [[item["bbox"], item["category_id"], str(item.get("segmentation"))] for item in image.objects]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read(paths: Sequence[Path], seed: int, split: Split, *, masks: bool) -> DetectionDataset:
    """Read COCO files with their images as one data set; categories with the same name are one label.

    A single path with subfolders `train` and `val` (or `test`) is split that way. Otherwise a fifth is for validation:
    by the hash of seed and content, so that copies stay together, or (`name`) of "folder/file_name". With
    `masks` every object needs a segmentation; without, an object that has none gets its box as mask.

    Raises DataError (no_data; bad_data with all problems).
    """
    splits = layout.splits(layout.unwrap(paths[0])) if len(paths) == 1 else None
    folders = (splits.training, splits.validation) if splits else None
    parts = _Parts(notes=[*splits.note] if splits else [])
    sides: tuple[list[AnnotatedImage], list[AnnotatedImage]] = ([], [])
    for side, path in enumerate(folders or paths):
        before = len(parts.images)
        _read_file(path, parts, masks=masks, prefix=f"{path.name}/" if folders or len(paths) > 1 else "")
        if folders:
            sides[side].extend(parts.images[before:])
    if parts.problems:
        raise datasets.bad_data(tuple(parts.problems))
    if folders:
        training, validation = (folder.name for folder in folders)
        description = f"the folders {training}/ and {validation}/"
        if {image.digest for image in sides[0]} & {image.digest for image in sides[1]}:
            parts.notes.append(f"images of {validation}/ are also in {training}/: the figures are too optimistic")
    elif split == "name":
        for image in parts.images:
            sides[image.is_validation].append(image)
        description = 'int(sha256("folder/file_name"), 16) % 5 == 0 is for validation'
    else:
        digests = datasets.validation_split((image.digest for image in parts.images), seed)
        for image in parts.images:
            sides[image.digest in digests].append(image)
        description = f"1 in {datasets.VALIDATION_PART} of the images, by SHA-256 of seed {seed} and content"
    found = DetectionDataset(tuple(parts.labels), tuple(sides[0]), tuple(sides[1]), description, tuple(parts.notes))
    return _checked(found)


def _checked(data: DetectionDataset) -> DetectionDataset:
    counts = list(zip(data.labels, data.count(data.training), data.count(data.validation), strict=True))
    problems = []
    for label, training, validation in counts:
        if not training + validation:
            problems.append(f"class {label!r} is empty")
        elif not training:
            problems.append(f"class {label!r}: no object is left for training")
    if not problems and not any(validation for _, _, validation in counts):
        problems.append("no object is left for validation: two or more images with objects are needed")
    if problems:
        raise datasets.bad_data(tuple(problems))
    unseen = [label for label, _, validation in counts if not validation]
    return replace(data, notes=(*data.notes, f"no validation object of {', '.join(unseen)}")) if unseen else data


def _read_file(path: Path, parts: _Parts, *, masks: bool, prefix: str) -> None:
    found = coco_file.find(path)
    if found is None:
        raise DataError(
            "no_data",
            f"{path} has no COCO file.",
            "Pass a folder with instances.json and images/, or one with train/ and val/ of that kind.",
        )
    file = coco_file.read(found)
    content = file.content
    lines = list(file.problems) or [f"{found.name}: {line}" for line in _mask_problems(content, masks=masks)]
    parts.problems += [prefix + line for line in lines]
    if lines:
        return
    parts.notes += [prefix + note for note in file.notes]
    parts.labels += [category.name for category in content.categories if category.name not in parts.labels]
    category_ids = {category.id: parts.labels.index(category.name) + 1 for category in content.categories}
    items: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {p.id: ([], []) for p in content.images}
    sizes = {image.id: (image.height, image.width) for image in content.images}
    for annotation in content.annotations:
        size = sizes[annotation.image_id]
        has_outline = annotation.segmentation and (masks or _outline_problem(annotation.segmentation, size) is None)
        segmentation = annotation.segmentation if has_outline else _rectangle(annotation.bbox)
        row = {
            "bbox": list(annotation.bbox),
            "category_id": category_ids[annotation.category_id],
            "area": annotation.bbox[2] * annotation.bbox[3] if annotation.area is None else annotation.area,
            "segmentation": as_rle(segmentation, *size),
        }
        items[annotation.image_id][bool(annotation.iscrowd)].append(row)
    crowds = sum(len(groups) for _, groups in items.values())
    if crowds:
        parts.notes.append(f"{prefix}left out: {crowds} crowds")
    for image in content.images:
        file_path, (objects, groups) = file.folder / image.file_name, items[image.id]
        number, digest = len(parts.images) + 1, datasets.digest_of(file_path)
        parts.images.append(
            AnnotatedImage(path.name, file_path, number, sizes[image.id], tuple(objects), tuple(groups), digest)
        )


def _mask_problems(content: Content, *, masks: bool) -> Iterable[str]:
    """Yield a line for each object whose segmentation is missing or invalid; boxes alone need none."""
    objects = [annotation for annotation in content.annotations if not annotation.iscrowd]
    if not masks:
        return
    if objects and not any(annotation.segmentation for annotation in objects):
        yield "no object has a segmentation; the task segment needs them, detect does not"
        return
    images = {image.id: image for image in content.images}
    for annotation in content.annotations:
        image = images[annotation.image_id]
        if annotation.segmentation:
            problem = _outline_problem(annotation.segmentation, (image.height, image.width))
        else:
            problem = None if annotation.iscrowd else "no segmentation"
        if problem:
            yield f"annotation {annotation.id}: {problem}, {image.file_name} is {image.width} x {image.height}"


def _outline_problem(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return what is wrong with a segmentation for an image of `size` (height, width), or None."""
    try:
        height, width = as_rle(segmentation, *size)["size"]
    except Exception as error:
        return f"the segmentation is neither polygons nor RLE ({error})"
    return None if (height, width) == size else f"the mask is {width} x {height}"


def as_rle(segmentation: Any, height: int, width: int) -> Any:
    """Return COCO's compressed RLE of polygons, of an uncompressed RLE or of a compressed one."""
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def _rectangle(bbox: tuple[float, float, float, float]) -> list[list[float]]:
    x, y, width, height = bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]
