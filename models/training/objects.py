"""Photos with several objects each, from COCO listings of somebody else's making, checked and split."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foursight.models.errors import DataError
from foursight.models.training import coco, dataset
from foursight.models.training.data import Photo, as_rle

Split = Literal["content", "name"]


@dataclass(frozen=True)
class ObjectSet:
    """Photos to train on and to validate on; an object's `category_id` is the place of its label plus one.

    `split` says how the photos were parted, `notes` what is odd or left out.
    """

    labels: tuple[str, ...]
    training: tuple[Photo, ...]
    validation: tuple[Photo, ...]
    split: str
    notes: tuple[str, ...]

    @property
    def category_ids(self) -> range:
        """Those of the labels, in their order."""
        return range(1, len(self.labels) + 1)

    def fingerprint(self) -> str:
        """SHA-256 over what is trained and validated on."""
        rows = [f"{photo.digest} {key(photo)}" for photo in (*self.training, *self.validation)]
        return hashlib.sha256("\n".join((*self.labels, str(len(self.training)), *rows)).encode()).hexdigest()

    def truth(self) -> dict[str, Any]:
        """The photos to validate on as COCO has it, crowds and all."""
        rows = [
            item | {"image_id": photo.image_id, "iscrowd": crowd}
            for photo in self.validation
            for crowd, items in enumerate((photo.objects, photo.crowds))
            for item in items
        ]
        return {
            "images": [{"id": p.image_id, "height": p.size[0], "width": p.size[1]} for p in self.validation],
            "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
            "categories": [
                {"id": number, "name": label} for number, label in zip(self.category_ids, self.labels, strict=True)
            ],
        }

    def count(self, photos: Iterable[Photo]) -> list[int]:
        """The number of objects of each label."""
        counts = Counter(item["category_id"] for photo in photos for item in photo.objects)
        return [counts[number] for number in self.category_ids]


@dataclass
class _Part:
    """What was read of the listings."""

    labels: list[str] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def key(photo: Photo) -> str:
    """SHA-256 of a photo's objects."""
    rows = [[item["bbox"], item["category_id"], str(item.get("segmentation"))] for item in photo.objects]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read(paths: Sequence[Path], seed: int, split: Split, *, masks: bool) -> ObjectSet:
    """Read COCO listings with their photos, one set of all; categories of one name are one label.

    A single path with folders `train` and `val` in it is split so; else a fifth of the photos is for validation: by the
    hash of seed and content, so that doubles stay together, or (`name`) by that of "folder/file_name".
    With `masks` every object needs a segmentation; without, an object that has none is its box.

    Raises DataError (no_data; bad_data with all that is wrong).
    """
    given = dataset.parts(paths[0]) if len(paths) == 1 else None
    whole = _Part()
    sides: tuple[list[Photo], list[Photo]] = ([], [])
    for side, path in enumerate(given or paths):
        before = len(whole.photos)
        _read(path, whole, masks=masks, prefix=f"{path.name}/" if given or len(paths) > 1 else "")
        if given:
            sides[side].extend(whole.photos[before:])
    if whole.problems:
        raise dataset.bad_data(tuple(whole.problems))
    if given:
        said = f"the folders {given[0].name}/ and {given[1].name}/"
        if {photo.digest for photo in sides[0]} & {photo.digest for photo in sides[1]}:
            whole.notes.append(f"photos of {given[1].name}/ are in {given[0].name}/ too: figures flatter")
    elif split == "name":
        for photo in whole.photos:
            sides[photo.is_validation].append(photo)
        said = 'int(sha256("folder/file_name"), 16) % 5 == 0 is for validation'
    else:
        held_back = dataset.held_back((photo.digest for photo in whole.photos), seed)
        for photo in whole.photos:
            sides[photo.digest in held_back].append(photo)
        said = f"1 in {dataset.VALIDATION_PART} of the photos, by SHA-256 of seed {seed} and content"
    found = ObjectSet(tuple(whole.labels), tuple(sides[0]), tuple(sides[1]), said, tuple(whole.notes))
    return _checked(found)


def _checked(found: ObjectSet) -> ObjectSet:
    seen, held_back = found.count(found.training), found.count(found.validation)
    problems = []
    for label, training, validation in zip(found.labels, seen, held_back, strict=True):
        if not training + validation:
            problems.append(f"class {label!r} is empty")
        elif not training:
            problems.append(f"class {label!r}: no object is left to train on")
    if not problems and not any(held_back):
        problems.append("no object is left to validate on: two photos with objects or more are needed")
    if problems:
        raise dataset.bad_data(tuple(problems))
    unseen = [label for label, count in zip(found.labels, held_back, strict=True) if not count]
    notes = (*found.notes, *([f"no validation object of {', '.join(unseen)}"] if unseen else []))
    return ObjectSet(found.labels, found.training, found.validation, found.split, notes)


def _read(path: Path, whole: _Part, *, masks: bool, prefix: str) -> None:
    file = coco.find(path)
    if file is None:
        raise DataError(
            "no_data",
            f"{path} holds no COCO listing.",
            "Give a folder with instances.json and images/, or one with train/ and val/ of that kind.",
        )
    listing = coco.read(file)
    content = listing.content
    lines = list(listing.problems) or [f"{file.name}: {line}" for line in _outlines(content, masks=masks)]
    whole.problems += [prefix + line for line in lines]
    if lines:
        return
    whole.labels += [category.name for category in content.categories if category.name not in whole.labels]
    numbers = {category.id: whole.labels.index(category.name) + 1 for category in content.categories}
    items: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {p.id: ([], []) for p in content.images}
    sizes = {photo.id: (photo.height, photo.width) for photo in content.images}
    for item in content.annotations:
        segmentation = item.segmentation or _box(item.bbox)
        row = {
            "bbox": list(item.bbox),
            "category_id": numbers[item.category_id],
            "area": item.bbox[2] * item.bbox[3] if item.area is None else item.area,
            "segmentation": as_rle(segmentation, *sizes[item.image_id]),
        }
        items[item.image_id][bool(item.iscrowd)].append(row)
    crowds = sum(len(groups) for _, groups in items.values())
    if crowds:
        whole.notes.append(f"{prefix}left out: {crowds} crowds")
    for photo in content.images:
        file = listing.folder / photo.file_name
        objects, groups = items[photo.id]
        size, number = (photo.height, photo.width), len(whole.photos) + 1
        digest = dataset.digest_of(file)
        whole.photos.append(Photo(path.name, file, number, size, tuple(objects), tuple(groups), digest))


def _outlines(content: coco.Content, *, masks: bool) -> Iterable[str]:
    """What is wrong with the segmentations."""
    objects = [item for item in content.annotations if not item.iscrowd]
    if masks and objects and not any(item.segmentation for item in objects):
        yield "no object has a segmentation, and segment needs outlines; --task detect does not"
        return
    photos = {photo.id: photo for photo in content.images}
    for item in content.annotations:
        photo = photos[item.image_id]
        if not item.segmentation:
            if masks and not item.iscrowd:
                yield f"annotation {item.id}: no segmentation"
            continue
        try:
            height, width = as_rle(item.segmentation, photo.height, photo.width)["size"]
        except Exception as error:
            yield f"annotation {item.id}: the segmentation is neither polygons nor RLE ({error})"
            continue
        if (height, width) != (photo.height, photo.width):
            own = f"{photo.file_name} {photo.width} x {photo.height}"
            yield f"annotation {item.id}: the mask is {width} x {height}, {own}"


def _box(bbox: tuple[float, float, float, float]) -> list[list[float]]:
    x, y, width, height = bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]
