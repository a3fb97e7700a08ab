"""Images with one class each, or the objects in images, checked and split."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foursight.models.datasets import class_folders, layout, reading
from foursight.models.datasets.faults import bad_data, unreadable_line
from foursight.models.datasets.value import DataSet, Part
from foursight.models.errors import ImageError
from foursight.models.image import decode
from foursight.models.training.splits import VALIDATION_PART, validation_split

# An object is cut out with a square window, this much larger than its longer side.
CONTEXT = 1.1
SMALLEST_OBJECT_PX = 32


@dataclass(frozen=True)
class Sample:
    """One example: a whole image, or the window `box` of it (x1, y1, x2, y2 in pixels of the upright image)."""

    path: Path
    label: int
    digest: str
    box: tuple[int, int, int, int] | None = None

    @property
    def key(self) -> str:
        """Identifies the pixels: the SHA-256 of the file, and the window."""
        return self.digest if self.box is None else f"{self.digest}-{'-'.join(map(str, self.box))}"

    def image(self) -> Image.Image:
        """Return the upright RGB image. Raises ImageError."""
        image = decode(self.path.read_bytes())
        return image if self.box is None else image.crop(self.box)


@dataclass(frozen=True)
class Dataset:
    """Examples for training and validation.

    `split` says how they were split, `notes` lists what was left out, `source` names the format and the place.
    """

    labels: tuple[str, ...]
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    split: str
    notes: tuple[str, ...]
    source: str

    def fingerprint(self) -> str:
        """Return the SHA-256 over labels, examples and split."""
        rows = [f"{sample.key} {sample.label}" for sample in (*self.training, *self.validation)]
        return hashlib.sha256("\n".join((*self.labels, str(len(self.training)), *rows)).encode()).hexdigest()


def read(data: Path, seed: int) -> Dataset:
    """Read a data set of any format. Labels are sorted by name.

    An example is a photo with a label. Where photos have objects instead, each object of 32 pixels or more is one, cut
    out with a square window; crowds are left out. Without a split of the data set's own, a fifth of each class (of the
    photos with objects) is for validation, chosen by the hash of seed and content.

    Raises DataError (no_data; bad_data with all problems).
    """
    found = reading.read(data)
    parts = found.parts
    by_object = not found.has_labels
    if by_object and not found.has_objects:
        raise bad_data((f"{data} is in {found.format} format and has neither labels nor objects",))
    names = [_names(part, found.format) for part in parts]
    labels = tuple(sorted(set().union(*names)))
    sides = [_examples(part, labels, by_object=by_object) for part in parts]
    notes = [*found.notes, *(note for part in parts for note in part.notes)]
    if found.format != class_folders.FORMAT:
        notes += found.unused(by_object=by_object)
    small = (
        sum(len(photo.counted) for part in parts for photo in part.photos) - sum(map(len, sides)) if by_object else 0
    )
    if small:
        notes.append(f"left out: {small} objects under {SMALLEST_OBJECT_PX} pixels")
    problems = [
        f"{parts[-1].name}: unknown category {label!r}, which {parts[0].name} does not have"
        for label in sorted(names[-1] - names[0])
    ]
    _check_classes(found, labels, sides, problems)
    notes += _doubtful(labels, parts, sides)
    if len(parts) > 1:
        split = f"{parts[0].name} and {parts[1].name}"
    else:
        digests = _validation_digests(sides[0], seed, by_class=not by_object)
        sides = [[one for one in sides[0] if (one.digest in digests) == side] for side in (False, True)]
        unit = "of the photos" if by_object else "of each class"
        split = f"1 in {VALIDATION_PART} {unit}, by SHA-256 of seed {seed} and content"
    notes += _unseen(labels, *sides)
    return Dataset(labels, tuple(sides[0]), tuple(sides[1]), split, tuple(notes), found.source)


def _names(part: Part, form: str) -> set[str]:
    # Each folder is meant to be a class, even an empty one; other formats may list classes that no photo has.
    names = set(part.declared) if form == class_folders.FORMAT else set()
    names.update(photo.label for photo in part.photos if photo.label is not None)
    return names or {one.label for photo in part.photos for one in photo.counted}


def _examples(part: Part, labels: Sequence[str], *, by_object: bool) -> list[Sample]:
    indices = {label: index for index, label in enumerate(labels)}
    if not by_object:
        return [Sample(photo.path, indices[photo.label or ""], photo.digest) for photo in part.photos]
    return [
        Sample(photo.path, indices[one.label], photo.digest, square_window(one.box, photo.size or (0, 0)))
        for photo in part.photos
        for one in photo.counted
        if min(one.box[2:]) >= SMALLEST_OBJECT_PX
    ]


def _doubtful(labels: Sequence[str], parts: Sequence[Part], sides: Sequence[Sequence[Sample]]) -> list[str]:
    """Return a line for each image that is in several classes, and one for images that are on both sides."""
    notes = []
    for side in sides:
        owners: dict[str, set[int]] = {}
        for sample in side:
            owners.setdefault(sample.key, set()).add(sample.label)
        for sample in side:
            several = owners.pop(sample.key, set())
            if len(several) > 1:
                names = ", ".join(labels[label] for label in sorted(several))
                notes.append(f"{sample.path.name}: the same image is in {names}")
    shared = set.intersection(*({sample.digest for sample in side} for side in sides)) if len(sides) > 1 else ()
    if shared:
        names = f"{parts[1].name} are also in {parts[0].name}"
        notes.append(f"{len(shared)} images of {names}: the figures are too optimistic")
    return notes


def _unseen(labels: Sequence[str], training: Sequence[Sample], validation: Sequence[Sample]) -> list[str]:
    """Return a line about the labels without an example for validation. Raises DataError if no side may be empty."""
    seen, held_out = ({sample.label for sample in side} for side in (training, validation))
    problems = [
        f"class {label!r}: no example is left for training" for index, label in enumerate(labels) if index not in seen
    ]
    if not problems and not held_out:
        problems.append("no example is left for validation: a class needs two or more images")
    if problems:
        raise bad_data(tuple(problems))
    unseen = [label for index, label in enumerate(labels) if index not in held_out]
    return [f"no validation example of {', '.join(unseen)}"] if unseen else []


def square_window(bbox: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the square around a box (x, y, width, height), moved and cropped to fit the image, as x1, y1, x2, y2."""
    x, y, width, height = bbox
    side = CONTEXT * max(width, height)
    spans = []
    for start, length, whole in ((x, width, size[0]), (y, height, size[1])):
        extent = min(side, whole)
        low = min(max(start + length / 2 - extent / 2, 0), whole - extent)
        spans.append((round(low), round(low + extent)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _check_classes(
    found: DataSet, labels: Sequence[str], sides: Sequence[Sequence[Sample]], problems: list[str]
) -> None:
    """Raise DataError for `problems`, or for those of the classes; images that cannot be read are added."""
    if not problems:
        used = {sample.label for side in sides for sample in side}
        problems += [f"class {label!r} is empty" for index, label in enumerate(labels) if index not in used]
        if len(labels) < 2:
            problems.append(f"only one class ({', '.join(labels)}): a classifier needs two or more{_inner(found)}")
    if problems:
        raise bad_data((*problems, *unreadable(sample for side in sides for sample in side)))


def _inner(found: DataSet) -> str:
    """Return a hint if the folders inside a lone class could be the classes."""
    if found.format != class_folders.FORMAT or len(found.parts) > 1:
        return ""
    inner = layout.lone_folder(found.place)
    names = [path.name for path in layout.subfolders(inner)] if inner else []
    return f"; if the classes are {', '.join(names[:5])}, pass {inner}" if names else ""


def unreadable(samples: Iterable[Sample]) -> list[str]:
    """Return a line for each image that cannot be decoded."""
    lines: dict[str, None] = {}
    for sample in samples:
        try:
            sample.image()
        except (ImageError, OSError) as error:
            lines[unreadable_line(sample.path, error)] = None
    return list(lines)


def _validation_digests(samples: Sequence[Sample], seed: int, *, by_class: bool) -> frozenset[str]:
    groups: dict[int, set[str]] = {}
    for sample in samples:
        groups.setdefault(sample.label if by_class else 0, set()).add(sample.digest)
    return frozenset().union(*(validation_split(digests, seed) for digests in groups.values()))
