"""Read labelled photos in the format that the files show."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

from foursight.models.datasets import class_folders, coco, huggingface, layout, voc, yolo, yolo_config
from foursight.models.datasets.faults import bad_data
from foursight.models.datasets.value import DataSet, Part
from foursight.models.errors import DataError


class _Format(Protocol):
    """A module that reads one format: `find` returns what it would read in a folder, `read` the parts."""

    FORMAT: str

    def find(self, folder: Path) -> Path | None: ...

    def read(self, found: Path) -> tuple[Part, ...]: ...


_FORMATS = cast(tuple[_Format, ...], (yolo, coco, huggingface, voc))
# What each format needs, for the error that no format fits.
_NEEDED = (
    "COCO: instances.json and images/",
    "YOLO: data.yaml, or classes.txt with images/ and labels/",
    "Pascal VOC: XML files, in Annotations/ or beside the images",
    "Hugging Face: metadata.jsonl",
    "or a folder for each class",
)


def read(path: Path, images: Path | None = None) -> DataSet:
    """Read the data set in a folder, or the one that a file describes; `images` is the folder of a COCO file's images.

    Folders named train and val (or valid, test, …) are the split, if the format does not say otherwise.

    Raises DataError (no_data; bad_data with all problems, each with its file and line).
    """
    if not path.exists():
        raise DataError("no_data", f"{path} does not exist.", "Pass a folder, or a file that describes a data set.")
    found = _of_file(path, images) if path.is_file() else _of_folder(_begin(path), images)
    found = replace(found, place=path)
    if images is not None and found.format != coco.FORMAT:
        raise DataError(
            "bad_data",
            f"{path} is in {found.format} format, which says itself where its photos are.",
            "Leave the folder of the images out.",
        )
    if found.problems:
        raise bad_data(found.problems)
    return found


def _of_file(path: Path, images: Path | None) -> DataSet:
    if path.suffix.lower() == ".json":
        return DataSet(coco.FORMAT, path, coco.read(path, images))
    if path.suffix.lower() in (".yaml", ".yml") or path.name in (yolo_config.CLASSES, yolo_config.DARKNET):
        return DataSet(yolo.FORMAT, path, yolo.read(path))
    if path.name in huggingface.METADATA:
        return DataSet(huggingface.FORMAT, path, huggingface.read(path))
    raise DataError(
        "no_data",
        f"{path} is not a file that describes a data set.",
        "Pass a .json, a .yaml, metadata.jsonl or a folder.",
    )


def _of_folder(folder: Path, images: Path | None) -> DataSet:
    whole = _recognize(folder)
    if whole is not None:
        form, found = whole
        parts = coco.read(found, images) if form.FORMAT == coco.FORMAT else form.read(found)
        return DataSet(form.FORMAT, folder, parts)
    splits = layout.splits(folder)
    if splits is None:
        return DataSet(class_folders.FORMAT, folder, _class_folders(folder))
    sides = [(side, _recognize(_begin(side))) for side in (splits.training, splits.validation)]
    formats = {recognized[0].FORMAT if recognized else class_folders.FORMAT for _, recognized in sides}
    if len(formats) > 1:
        raise bad_data((f"{sides[0][0].name}/ and {sides[1][0].name}/ are in two formats: {_listed(formats)}",))
    halves = []
    for side, recognized in sides:
        (part, *others) = recognized[0].read(recognized[1]) if recognized else _class_folders(side)
        if others:
            raise bad_data((f"{side.name}/ has a split of its own; pass it alone, or remove its lists",))
        halves.append(part.below(side.name))
    return DataSet(formats.pop(), folder, tuple(halves), splits.note)


def _begin(folder: Path) -> Path:
    """Return the folder in which a data set begins: `folder`, or one that is alone in it.

    A lone folder with folders for classes stays a class, unless it is named like a side of a split.
    """
    place = folder
    while _recognize(place) is None and layout.splits(place) is None:
        inner = layout.lone_folder(place)
        if inner is None:
            return folder
        if layout.is_side(inner) and layout.subfolders(inner):
            return inner
        place = inner
    return place


def _recognize(folder: Path) -> tuple[_Format, Path] | None:
    found = [(form, place) for form in _FORMATS for place in [form.find(folder)] if place is not None]
    if len(found) > 1:
        names = _listed(f"{form.FORMAT} ({place.name})" for form, place in found)
        raise bad_data((f"{folder.name}/ has data in {len(found)} formats: {names}; pass the file of one of them",))
    return found[0] if found else None


def _class_folders(folder: Path) -> tuple[Part, ...]:
    parts = class_folders.read(folder)
    if not any(part.photos or part.problems for part in parts):
        files = coco.candidates(folder)
        if len(files) > 1:
            raise DataError("no_data", f"{folder} has {len(files)} COCO files.", f"Pass one of them: {_listed(files)}.")
        raise DataError("no_data", f"{folder} has no data set.", f"The formats are {'; '.join(_NEEDED)}.")
    return parts


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
