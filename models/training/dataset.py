"""Photos with a class each, from a folder per class or from COCO's format, checked and split."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from foursight.models.errors import DataError, ImageError
from foursight.models.image import decode
from foursight.models.training import coco

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"))
TRAIN_NAMES, VALIDATION_NAMES = ("train", "training"), ("val", "valid", "validation")
# One part of so many is for validation where the data does not say it.
VALIDATION_PART = 5
# An object is cut out with a square window round it, so much larger than its longer side.
CONTEXT = 1.1
SMALLEST_OBJECT_PX = 32


@dataclass(frozen=True)
class Sample:
    """One example: the whole photo, or the window `box` (x1, y1, x2, y2 in pixels of the upright photo) of it."""

    path: Path
    label: int
    digest: str
    box: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """What decides its pixels: the SHA-256 of the file, and the window."""
        return self.digest if self.box is None else f"{self.digest}-{'-'.join(map(str, self.box))}"

    def image(self) -> Image.Image:
        """Its pixels, upright RGB. Raises ImageError."""
        image = decode(self.path.read_bytes())
        if self.size is not None and image.size != self.size:
            found, said = (" x ".join(map(str, size)) for size in (image.size, self.size))
            raise ImageError("not_an_image", f"The photo is {found} pixels, the listing says {said}.", "Correct it.")
        return image if self.box is None else image.crop(self.box)


@dataclass(frozen=True)
class Dataset:
    """Examples to train on and to validate on. `split` says how they were parted, `notes` what is odd or left out."""

    labels: tuple[str, ...]
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    split: str
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 over what is trained and validated on."""
        rows = [f"{sample.key} {sample.label}" for sample in (*self.training, *self.validation)]
        return hashlib.sha256("\n".join((*self.labels, str(len(self.training)), *rows)).encode()).hexdigest()


@dataclass
class _Part:
    """What was read of one folder."""

    labels: list[str]
    samples: list[Sample]
    problems: list[str]
    notes: list[str]


def read(data: Path, seed: int) -> Dataset:
    """Read a set for classification: folders of classes (torchvision's ImageFolder), or a COCO listing with its photos.

    Folders `train` and `val` in it are the split, where they are there; else a fifth of each class (of the photos, for
    a listing) is for validation, chosen by the hash of seed and content, so that a file's double stays on its side.
    Of a listing, each object of 32 pixels or more is an example, cut out with a square window; crowds are left out.

    Raises DataError (no_data; bad_data with all that is wrong).
    """
    given = parts(data)
    if given is not None:
        return _given_split(*given)
    part = _read_part(data)
    _check_classes(part)
    listed = coco.find(data) is not None
    kept_back = _held_back(part.samples, seed, by_class=not listed)
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in part.samples:
        sides[sample.digest in kept_back].append(sample)
    of_what = "of the photos" if listed else "of each class"
    split = f"1 in {VALIDATION_PART} {of_what}, by SHA-256 of seed {seed} and content"
    return _finish(part, sides, split)


def _given_split(train: Path, validation: Path) -> Dataset:
    first, second = _read_part(train), _read_part(validation)
    part = _Part(first.labels, [], [], [])
    for folder, side in ((train, first), (validation, second)):
        part.problems += [f"{folder.name}/{line}" for line in side.problems]
        part.notes += [f"{folder.name}/{line}" for line in side.notes]
    part.problems += [
        f"{validation.name}/: unknown category {label!r}: {train.name}/ does not have it"
        for label in second.labels
        if label not in first.labels
    ]
    part.samples = first.samples
    _check_classes(part)
    places = {label: index for index, label in enumerate(first.labels)}
    moved = [replace(sample, label=places[second.labels[sample.label]]) for sample in second.samples]
    shared = {sample.digest for sample in first.samples} & {sample.digest for sample in moved}
    if shared:
        part.notes.append(f"{len(shared)} photos of {validation.name}/ are in {train.name}/ too: figures flatter")
    return _finish(part, (first.samples, moved), f"the folders {train.name}/ and {validation.name}/")


def _finish(part: _Part, sides: tuple[Sequence[Sample], Sequence[Sample]], split: str) -> Dataset:
    counts = [Counter(sample.label for sample in side) for side in sides]
    lacking = [label for index, label in enumerate(part.labels) if not counts[0][index]]
    if lacking:
        lines = tuple(f"class {label!r}: no example is left to train on" for label in lacking)
        raise bad_data(lines)
    unseen = [label for index, label in enumerate(part.labels) if not counts[1][index]]
    if len(unseen) == len(part.labels):
        raise bad_data(("no example is left to validate on: a class needs two photos or more",))
    if unseen:
        part.notes.append(f"no validation example of {', '.join(unseen)}")
    return Dataset(tuple(part.labels), tuple(sides[0]), tuple(sides[1]), split, tuple(part.notes))


def parts(data: Path) -> tuple[Path, Path] | None:
    """The folders `train` and `val` of a set that is split already."""
    train, validation = _child(data, TRAIN_NAMES), _child(data, VALIDATION_NAMES)
    return None if train is None or validation is None else (train, validation)


def _child(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _read_part(folder: Path) -> _Part:
    listing = coco.find(folder)
    if listing is not None:
        return _read_listing(coco.read(listing))
    classes = sorted(path for path in folder.glob("*/") if not path.name.startswith(".")) if folder.is_dir() else []
    if not classes:
        raise DataError(
            "no_data",
            f"{folder} holds neither folders of photos nor a COCO listing.",
            "Give a folder with a folder for each class, or one with instances.json and images/.",
        )
    return _read_folders(classes)


def _read_folders(classes: Sequence[Path]) -> _Part:
    part = _Part([folder.name for folder in classes], [], [], [])
    strangers = 0
    for label, folder in enumerate(classes):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        photos = [path for path in files if path.suffix.lower() in SUFFIXES]
        strangers += len(files) - len(photos)
        part.samples += [Sample(path, label, digest_of(path)) for path in photos]
    if strangers:
        part.notes.append(f"{strangers} files are no photos by their names, and are left out")
    owners: dict[str, set[int]] = {}
    for sample in part.samples:
        owners.setdefault(sample.digest, set()).add(sample.label)
    for sample in part.samples:
        several = owners.pop(sample.digest, set())
        if len(several) > 1:
            names = ", ".join(part.labels[label] for label in sorted(several))
            part.notes.append(f"{sample.path.name}: the same photo is in {names}")
    return part


def _read_listing(listing: coco.Listing) -> _Part:
    content = listing.content
    part = _Part([category.name for category in content.categories], [], list(listing.problems), [])
    if part.problems:
        return part
    places = {category.id: index for index, category in enumerate(content.categories)}
    photos = {photo.id: photo for photo in content.images}
    digests = {photo.id: digest_of(listing.folder / photo.file_name) for photo in content.images}
    small = 0
    for item in content.annotations:
        photo = photos[item.image_id]
        if item.iscrowd:
            continue
        if min(item.bbox[2:]) < SMALLEST_OBJECT_PX:
            small += 1
            continue
        path, size = listing.folder / photo.file_name, (photo.width, photo.height)
        part.samples.append(Sample(path, places[item.category_id], digests[photo.id], window(item.bbox, size), size))
    crowds = sum(bool(item.iscrowd) for item in content.annotations)
    if small or crowds:
        part.notes.append(f"left out: {small} objects under {SMALLEST_OBJECT_PX} pixels, {crowds} crowds")
    return part


def window(bbox: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square round a box, moved into the photo; as much of it as the photo has."""
    x, y, width, height = bbox
    side = CONTEXT * max(width, height)
    spans = []
    for start, length, whole in ((x, width, size[0]), (y, height, size[1])):
        reach = min(side, whole)
        low = min(max(start + length / 2 - reach / 2, 0), whole - reach)
        spans.append((round(low), round(low + reach)))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def _check_classes(part: _Part) -> None:
    """Raise DataError for what is wrong with a part: with its listing, its classes, or its photos."""
    problems = list(part.problems)
    if not problems:
        counts = Counter(sample.label for sample in part.samples)
        problems += [f"class {label!r} is empty" for index, label in enumerate(part.labels) if not counts[index]]
        if len(part.labels) < 2:
            problems.append(f"one class only ({', '.join(part.labels)}): there is nothing to tell apart")
    if problems:
        raise bad_data((*problems, *unreadable(part.samples)))


def unreadable(samples: Iterable[Sample]) -> list[str]:
    """A line for each photo that cannot be decoded."""
    lines: dict[str, None] = {}
    for sample in samples:
        try:
            sample.image()
        except (ImageError, OSError) as error:
            lines[unreadable_line(sample.path, error)] = None
    return list(lines)


def unreadable_line(path: Path, error: Exception) -> str:
    """What to say of a photo that cannot be decoded."""
    return f"{path.parent.name}/{path.name}: {getattr(error, 'detail', error)}"


def bad_data(problems: tuple[str, ...]) -> DataError:
    """The refusal of a set, with a line for each thing that is wrong."""
    count = f"{len(problems)} thing{'s' if len(problems) > 1 else ''}"
    return DataError("bad_data", f"The data cannot be trained on: {count} wrong.", "Nothing was written.", problems)


def _held_back(samples: Sequence[Sample], seed: int, *, by_class: bool) -> frozenset[str]:
    """The digests of the files for validation."""
    groups: dict[int, set[str]] = {}
    taken: set[str] = set()
    for sample in samples:
        groups.setdefault(sample.label if by_class else 0, set()).add(sample.digest)
    for digests in groups.values():
        taken |= held_back(digests, seed)
    return frozenset(taken)


def held_back(digests: Iterable[str], seed: int) -> frozenset[str]:
    """A fifth of files by their digests, in the order of the SHA-256 of seed and digest; one of two, none of one."""
    order = sorted(set(digests), key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).hexdigest())
    return frozenset(order[: max(1, len(order) // VALIDATION_PART) if len(order) > 1 else 0])


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
