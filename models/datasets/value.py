"""Labelled photos, whatever the format that they were read from."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]

# A hundredth of a pixel: the formats round coordinates differently, and none of them means more than this.
DIGITS = 2
# Annotation tools often round boxes outwards.
TOLERANCE_PX = 1.0


@dataclass(frozen=True)
class Object:
    """An object in a photo: `box` is x, y, width, height in pixels, `segmentation` polygons or an RLE as in COCO.

    `name` is where it was read: the file, and the line or the id in it. A crowd is neither trained on nor counted
    as wrong: COCO's groups, and VOC's difficult objects.
    """

    name: str
    label: str
    box: Box
    segmentation: Any = None
    area: float | None = None
    is_crowd: bool = False


@dataclass(frozen=True)
class Photo:
    """An image file, the (width, height) of the upright image, and its objects or its label."""

    path: Path
    size: tuple[int, int] | None = None
    objects: tuple[Object, ...] = ()
    label: str | None = None

    @property
    def counted(self) -> tuple[Object, ...]:
        """The objects without crowds."""
        return tuple(one for one in self.objects if not one.is_crowd)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Part:
    """The photos of one side of a split, or of a whole data set, in the order of `in_order`.

    `declared` are the labels that the format lists, whether or not a photo has them, and `ids` their numbers in it, if
    it has any. `problems` has one line for
    each fault; if there is any, photos may be missing. `notes` says what was left out.
    """

    name: str
    photos: tuple[Photo, ...] = ()
    declared: tuple[str, ...] = ()
    ids: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Whether each photo has a label of its own."""
        return all(photo.label is not None for photo in self.photos)

    def below(self, folder: str) -> "Part":
        """Return the part with messages that begin with the name of its folder."""

        def moved(photo: Photo) -> Photo:
            return replace(photo, objects=tuple(replace(one, name=f"{folder}/{one.name}") for one in photo.objects))

        return replace(
            self,
            name=f"{folder}/",
            photos=tuple(map(moved, self.photos)),
            problems=tuple(f"{folder}/{line}" for line in self.problems),
            notes=tuple(f"{folder}/{line}" for line in self.notes),
        )


@dataclass(frozen=True)
class DataSet:
    """What was read at `place`: one part, or the parts for training and for validation. `notes` are about all parts."""

    format: str
    place: Path
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> tuple[str, ...]:
        """The faults of all parts."""
        return tuple(dict.fromkeys(line for part in self.parts for line in part.problems))

    def unused(self, *, by_object: bool) -> tuple[str, ...]:
        """Return a line about the labels that the format lists and no object (or no photo) has, if there are any."""
        photos = [photo for part in self.parts for photo in part.photos]
        used = (
            {one.label for photo in photos for one in photo.counted} if by_object else {photo.label for photo in photos}
        )
        names = dict.fromkeys(label for part in self.parts for label in part.declared if label not in used)
        kind = "annotation has the category" if by_object else "photo has the label"
        return (f"left out: no {kind} {', '.join(names)}",) if names else ()

    @property
    def source(self) -> str:
        """The number of photos, the format and the place, for messages."""
        count = sum(len(part.photos) for part in self.parts)
        return f"{count} photo{'s' if count > 1 else ''} in {self.format} format from {self.place}"

    @property
    def has_labels(self) -> bool:
        """Whether each photo has a label of its own."""
        return all(part.has_labels for part in self.parts)

    @property
    def has_objects(self) -> bool:
        """Whether photos have objects."""
        return any(photo.objects for part in self.parts for photo in part.photos)


def in_order(photos: Iterable[Photo]) -> tuple[Photo, ...]:
    """Return photos and their objects in the order that is the same for each format.

    Photos are sorted by label, file name and content, objects by label and box.
    """
    photos = tuple(photos)
    names = Counter(photo.path.name for photo in photos)

    def key(photo: Photo) -> tuple[str, str, str]:
        return photo.label or "", photo.path.name, photo.digest if names[photo.path.name] > 1 else ""

    return tuple(
        replace(photo, objects=tuple(sorted(photo.objects, key=lambda one: (one.label, one.box, one.name))))
        for photo in sorted(photos, key=key)
    )


def rounded(box: Iterable[float]) -> Box:
    """Return x, y, width and height, rounded to hundredths of a pixel."""
    x, y, width, height = (round(float(value), DIGITS) for value in box)
    return x, y, width, height


def box_problem(box: Box, size: tuple[int, int], file_name: str) -> str | None:
    """Return what is wrong with a box (x, y, width, height) in an image of (width, height) pixels, or None."""
    x, y, width, height = box
    shown = "[" + ", ".join(f"{value:g}" for value in box) + "]"
    # Not "<= 0", which is False for NaN.
    if not (width > 0 and height > 0):
        return f"the box {shown} of {file_name} has no area"
    inside = min(x, y) >= -TOLERANCE_PX and x + width <= size[0] + TOLERANCE_PX and y + height <= size[1] + TOLERANCE_PX
    return None if inside else f"the box {shown} is outside {file_name} ({size[0]} x {size[1]})"
