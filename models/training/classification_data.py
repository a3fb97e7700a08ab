"""Images with one class each, from a folder per class or from a COCO file, checked and split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from foursight.models.errors import DataError, ImageError
from foursight.models.image import decode
from foursight.models.training import coco_file, layout
from foursight.models.training.coco_file import CocoFile
from foursight.models.training.datasets import (
    VALIDATION_PART,
    bad_data,
    digest_of,
    unreadable_line,
    validation_split,
)
from foursight.models.training.layout import Splits
from foursight.schema.image_files import SUFFIXES

# An object is cut out with a square window, this much larger than its longer side.
CONTEXT = 1.1
SMALLEST_OBJECT_PX = 32


@dataclass(frozen=True)
class Sample:
    """One example: a whole image, or the window `box` of it (x1, y1, x2, y2 in pixels of the upright image).

    `size` is the (width, height) that the COCO file gives; the file must have it.
    """

    path: Path
    label: int
    digest: str
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """Identifies the pixels: the SHA-256 of the file, and the window."""
        return self.digest if self.box is None else f"{self.digest}-{'-'.join(map(str, self.box))}"

    def image(self) -> Image.Image:
        """Return the upright RGB image. Raises ImageError."""
        image = decode(self.path.read_bytes())
        if self.size is not None:
            coco_file.check_size(image, self.size)
        return image if self.box is None else image.crop(self.box)


@dataclass(frozen=True)
class Dataset:
    """Examples for training and validation. `split` says how they were split; `notes` lists what was left out."""

    labels: tuple[str, ...]
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    split: str
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """Return the SHA-256 over labels, examples and split."""
        rows = [f"{sample.key} {sample.label}" for sample in (*self.training, *self.validation)]
        return hashlib.sha256("\n".join((*self.labels, str(len(self.training)), *rows)).encode()).hexdigest()


@dataclass
class _Part:
    """What was read from one folder."""

    labels: list[str]
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(data: Path, seed: int) -> Dataset:
    """Read a classification set: a folder per class (torchvision's ImageFolder), or a COCO file with its images.

    Subfolders `train` and `val` (or `test`) are the split, if they exist. Otherwise a fifth of each class (of a COCO
    file's images) is for validation, chosen by the hash of seed and content. Each object of 32 pixels or more in a COCO
    file is an example, cut out with a square window; crowds are left out.

    Raises DataError (no_data; bad_data with all problems).
    """
    data = layout.unwrap(data)
    splits = layout.splits(data)
    if splits is not None:
        return _read_split(splits)
    part = _read_part(data)
    _check_classes(part)
    is_coco = coco_file.find(data) is not None
    digests = _validation_digests(part.samples, seed, by_class=not is_coco)
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in part.samples:
        sides[sample.digest in digests].append(sample)
    unit = "of the images" if is_coco else "of each class"
    return _finish(part, sides, f"1 in {VALIDATION_PART} {unit}, by SHA-256 of seed {seed} and content")


def _read_split(splits: Splits) -> Dataset:
    training, validation = splits.training, splits.validation
    first, second = _read_part(training), _read_part(validation)
    part = _Part(first.labels, first.samples, notes=[*splits.note])
    for folder, side in ((training, first), (validation, second)):
        part.problems += [f"{folder.name}/{line}" for line in side.problems]
        part.notes += [f"{folder.name}/{line}" for line in side.notes]
    part.problems += [
        f"{validation.name}/: unknown category {label!r}, which {training.name}/ does not have"
        for label in second.labels
        if label not in first.labels
    ]
    _check_classes(part)
    indices = {label: index for index, label in enumerate(first.labels)}
    moved = [replace(sample, label=indices[second.labels[sample.label]]) for sample in second.samples]
    shared = {sample.digest for sample in first.samples} & {sample.digest for sample in moved}
    if shared:
        part.notes.append(
            f"{len(shared)} images of {validation.name}/ are also in {training.name}/: the figures are too optimistic"
        )
    return _finish(part, (first.samples, moved), f"the folders {training.name}/ and {validation.name}/")


def _finish(part: _Part, sides: tuple[Sequence[Sample], Sequence[Sample]], split: str) -> Dataset:
    training, validation = (Counter(sample.label for sample in side) for side in sides)
    problems = [
        f"class {label!r}: no example is left for training"
        for index, label in enumerate(part.labels)
        if not training[index]
    ]
    unseen = [label for index, label in enumerate(part.labels) if not validation[index]]
    if not problems and len(unseen) == len(part.labels):
        problems.append("no example is left for validation: a class needs two or more images")
    if problems:
        raise bad_data(tuple(problems))
    if unseen:
        part.notes.append(f"no validation example of {', '.join(unseen)}")
    return Dataset(tuple(part.labels), tuple(sides[0]), tuple(sides[1]), split, tuple(part.notes))


def _read_part(folder: Path) -> _Part:
    file = coco_file.find(folder)
    if file is not None:
        return _read_objects(coco_file.read(file))
    classes = layout.subfolders(folder)
    if not classes:
        raise DataError(
            "no_data",
            f"{folder} has neither a folder per class nor a COCO file.",
            "Pass a folder that has a folder for each class, or instances.json and images/.",
        )
    lines = layout.not_classes([path.name for path in classes])
    if lines:
        raise bad_data(lines)
    return _read_folders(classes)


def _read_folders(classes: Sequence[Path]) -> _Part:
    part = _Part([folder.name for folder in classes])
    others = 0
    for label, folder in enumerate(classes):
        files = layout.files_below(folder)
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        others += len(files) - len(images)
        part.samples += [Sample(path, label, digest_of(path)) for path in images]
    if others:
        part.notes.append(f"left out: {others} files without the suffix of an image")
    owners: dict[str, set[int]] = {}
    for sample in part.samples:
        owners.setdefault(sample.digest, set()).add(sample.label)
    for sample in part.samples:
        several = owners.pop(sample.digest, set())
        if len(several) > 1:
            names = ", ".join(part.labels[label] for label in sorted(several))
            part.notes.append(f"{sample.path.name}: the same image is in {names}")
    return part


def _read_objects(file: CocoFile) -> _Part:
    content = file.content
    part = _Part(
        [category.name for category in content.categories], problems=list(file.problems), notes=list(file.notes)
    )
    if part.problems:
        return part
    indices = {category.id: index for index, category in enumerate(content.categories)}
    images = {image.id: image for image in content.images}
    digests = {image.id: digest_of(file.folder / image.file_name) for image in content.images}
    objects = [annotation for annotation in content.annotations if not annotation.iscrowd]
    large = [annotation for annotation in objects if min(annotation.bbox[2:]) >= SMALLEST_OBJECT_PX]
    for annotation in large:
        image = images[annotation.image_id]
        path, size = file.folder / image.file_name, (image.width, image.height)
        box = square_window(annotation.bbox, size)
        part.samples.append(Sample(path, indices[annotation.category_id], digests[image.id], box, size))
    small, crowds = len(objects) - len(large), len(content.annotations) - len(objects)
    if small or crowds:
        part.notes.append(f"left out: {small} objects under {SMALLEST_OBJECT_PX} pixels, {crowds} crowds")
    return part


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


def _check_classes(part: _Part) -> None:
    """Raise DataError for problems of the COCO file, of the classes or of the images."""
    problems = list(part.problems)
    if not problems:
        counts = Counter(sample.label for sample in part.samples)
        problems += [f"class {label!r} is empty" for index, label in enumerate(part.labels) if not counts[index]]
        if len(part.labels) < 2:
            problems.append(f"only one class ({', '.join(part.labels)}): a classifier needs two or more")
    if problems:
        raise bad_data((*problems, *unreadable(part.samples)))


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
