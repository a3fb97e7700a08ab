"""Images with several objects each, checked and split."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from foursight.models.datasets import reading
from foursight.models.datasets.faults import bad_data
from foursight.models.datasets.outlines import as_rle, outline_problems
from foursight.models.datasets.value import Box, DataSet, Part, Photo
from foursight.models.image import decode
from foursight.models.training import splits

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
        """Return the upright RGB image. Raises ImageError."""
        return decode(self.path.read_bytes())

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

    `split` says how the images were split, `notes` lists what was left out, `source` names the formats and places.
    `own_ids` are the ids of the labels in the files, None if these have none or do not agree.
    """

    labels: tuple[str, ...]
    training: tuple[AnnotatedImage, ...]
    validation: tuple[AnnotatedImage, ...]
    split: str
    notes: tuple[str, ...]
    source: str
    own_ids: tuple[int, ...] | None = None

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


def _objects_digest(image: AnnotatedImage) -> str:
    rows = [[item["bbox"], item["category_id"], str(item.get("segmentation"))] for item in image.objects]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read(paths: Sequence[Path], seed: int, split: Split, *, masks: bool) -> DetectionDataset:
    """Read data sets with boxes as one; labels are sorted by name, and equal ones are one label.

    A single data set may have a split of its own. Otherwise a fifth is for validation: by the hash of seed and content,
    so that copies stay together, or (`name`) of "folder/file_name". With `masks` every object needs a segmentation;
    without, each object's box is its mask.

    Raises DataError (no_data; bad_data with all problems).
    """
    sets = [reading.read(path) for path in paths]
    problems = [line for one in sets for line in _problems(one, masks=masks)]
    if len(paths) > 1:
        problems += [f"{one.place} has a split of its own; pass it alone" for one in sets if len(one.parts) > 1]
    if problems:
        raise bad_data(tuple(problems))
    parts = [(found, part) for found in sets for part in found.parts]
    labels = tuple(sorted({one.label for _, part in parts for photo in part.photos for one in photo.counted}))
    notes = [
        f"{found.place.name}/{note}" if len(sets) > 1 else note
        for found in sets
        for note in (
            *found.notes,
            *(note for part in found.parts for note in part.notes),
            *found.unused(by_object=True),
        )
    ]
    ids = {label: number for number, label in enumerate(labels, 1)}
    images: list[list[AnnotatedImage]] = []
    first = 1
    for found, part in parts:
        images.append(
            [_annotated(found, photo, first + index, ids, masks=masks) for index, photo in enumerate(part.photos)]
        )
        first += len(part.photos)
    if len(sets) == 1 and len(images) == 2:
        training, validation = images
        names = [part.name for part in sets[0].parts]
        description = f"{names[0]} and {names[1]}"
        if {image.digest for image in training} & {image.digest for image in validation}:
            notes.append(f"images of {names[1]} are also in {names[0]}: the figures are too optimistic")
    else:
        training, validation, description = _split([image for side in images for image in side], seed, split)
    source = " and ".join(one.source for one in sets)
    ids_in_files = _own_ids(labels, parts)
    return _checked(
        DetectionDataset(labels, tuple(training), tuple(validation), description, tuple(notes), source, ids_in_files)
    )


def _own_ids(labels: Sequence[str], parts: Sequence[tuple[DataSet, Part]]) -> tuple[int, ...] | None:
    pairs = {(label, part.ids.get(label)) for _, part in parts for label in labels if label in part.ids}
    ids = dict(pairs)
    found = tuple(number for label in labels if (number := ids.get(label)) is not None)
    return found if len(pairs) == len(labels) == len(set(found)) else None


def _split(
    images: list[AnnotatedImage], seed: int, split: Split
) -> tuple[list[AnnotatedImage], list[AnnotatedImage], str]:
    """Return the images for training and for validation, and how they were chosen."""
    if split == "name":
        chosen = {image.image_id for image in images if image.is_validation}
        description = 'int(sha256("folder/file_name"), 16) % 5 == 0 is for validation'
    else:
        digests = splits.validation_split((image.digest for image in images), seed)
        chosen = {image.image_id for image in images if image.digest in digests}
        description = f"1 in {splits.VALIDATION_PART} of the images, by SHA-256 of seed {seed} and content"
    sides: tuple[list[AnnotatedImage], list[AnnotatedImage]] = ([], [])
    for image in images:
        sides[image.image_id in chosen].append(image)
    return *sides, description


def _problems(found: DataSet, *, masks: bool) -> Iterable[str]:
    if not found.has_objects:
        yield (
            f"{found.place} is in {found.format} format and has no boxes; "
            "write them in COCO, YOLO or Pascal VOC format, or as objects in metadata.jsonl"
        )
    elif masks:
        yield from outline_problems([photo for part in found.parts for photo in part.photos])
    if len(found.parts) > 1:
        first, second = ({one.label for photo in part.photos for one in photo.counted} for part in found.parts)
        names = [part.name for part in found.parts]
        yield from (
            f"{names[1]}: unknown category {label!r}, which {names[0]} does not have"
            for label in sorted(second - first)
        )


def _annotated(found: DataSet, photo: Photo, number: int, ids: dict[str, int], *, masks: bool) -> AnnotatedImage:
    assert photo.size is not None
    size = photo.size[1], photo.size[0]
    items: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for one in photo.objects:
        if one.label in ids:
            segmentation = one.segmentation if masks and one.segmentation else _rectangle(one.box)
            items[one.is_crowd].append(
                {
                    "bbox": list(one.box),
                    "category_id": ids[one.label],
                    "area": one.box[2] * one.box[3] if one.area is None or not masks else one.area,
                    "segmentation": as_rle(segmentation, *size),
                }
            )
    return AnnotatedImage(found.place.name, photo.path, number, size, tuple(items[0]), tuple(items[1]), photo.digest)


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
        raise bad_data(tuple(problems))
    unseen = [label for label, _, validation in counts if not validation]
    return replace(data, notes=(*data.notes, f"no validation object of {', '.join(unseen)}")) if unseen else data


def _rectangle(bbox: Box) -> list[list[float]]:
    x, y, width, height = bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]
