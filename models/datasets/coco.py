"""Data sets in COCO's format: COCO itself, and the exports of CVAT, Label Studio, Roboflow and FiftyOne."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from foursight.models.datasets import layout
from foursight.models.datasets.files import size_problem
from foursight.models.datasets.value import Object, Part, Photo, box_problem, in_order, rounded

FORMAT = "COCO"

# What tells a COCO file from other JSON, and how far into the file it is looked for, in bytes.
_KEY = re.compile(rb'"(images|annotations)"\s*:')
_SNIFFED = 1_000_000


class ImageEntry(BaseModel):
    """An entry of `images`; sizes in pixels."""

    id: int
    file_name: str
    width: int
    height: int


class Annotation(BaseModel):
    """An entry of `annotations`; `bbox` is x, y, width, height in pixels, `segmentation` polygons or an RLE."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | None = 0
    area: float | None = None
    segmentation: Any = None


class Category(BaseModel):
    """An entry of `categories`."""

    id: int
    name: str


class Content(BaseModel):
    """The parts of the JSON that are read; other keys are ignored."""

    images: list[ImageEntry]
    annotations: list[Annotation]
    categories: list[Category]


@dataclass(frozen=True)
class CocoFile:
    """The content of a COCO file, the folder of its images, and one line for each problem in it."""

    content: Content
    folder: Path
    problems: tuple[str, ...]


def find(folder: Path) -> Path | None:
    """Return a folder's COCO file: `instances.json`, or its only one; in the folder or in its `annotations/`.

    For a folder `train2017` also `instances_train2017.json` in `annotations/` beside it. None if there is none of them.
    """
    for place in (folder, folder / "annotations"):
        found = _coco_files(place)
        named = [path for path in found if path.name == "instances.json"] or found
        if len(named) == 1:
            return named[0]
    beside = folder.parent / "annotations" / f"instances_{folder.name}.json"
    return beside if beside.is_file() else None


def candidates(folder: Path) -> list[str]:
    """Return the paths of all COCO files in a folder and its `annotations/`."""
    return [str(path.relative_to(folder)) for place in (folder, folder / "annotations") for path in _coco_files(place)]


def _coco_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if layout.is_visible(path) and _is_coco(path))


def _is_coco(path: Path) -> bool:
    if path.name == "instances.json" or path.name.endswith(".coco.json"):
        return True
    with path.open("rb") as file:
        return _KEY.search(file.read(_SNIFFED)) is not None


def read(path: Path, images: Path | None = None) -> tuple[Part, ...]:
    """Read a COCO file as one part; its images are in the folder `images`, or where `parse` finds them."""
    file = parse(path, images)
    if file.problems:
        return (Part(path.name, problems=file.problems),)
    content = file.content
    names = {category.id: category.name for category in content.categories}
    objects: dict[int, list[Object]] = {image.id: [] for image in content.images}
    for annotation in content.annotations:
        objects[annotation.image_id].append(
            Object(
                f"{path.name}: annotation {annotation.id}",
                names[annotation.category_id],
                rounded(annotation.bbox),
                annotation.segmentation or None,
                annotation.area,
                bool(annotation.iscrowd),
            )
        )
    photos = (
        Photo(file.folder / image.file_name, (image.width, image.height), tuple(objects[image.id]))
        for image in content.images
    )
    crowds = sum(bool(annotation.iscrowd) for annotation in content.annotations)
    notes = (f"left out: {crowds} crowds",) if crowds else ()
    ids = {name: number for number, name in names.items()}
    return (Part(path.name, in_order(photos), tuple(ids), ids, notes=notes),)


def parse(path: Path, images: Path | None = None) -> CocoFile:
    """Read a COCO file and collect its problems.

    Its images are in `images/` or `data/` beside it, or in its own folder. From `annotations/`, these are looked for in
    the folder above. The folder that has the most of the images is taken.
    """
    empty = Content(images=[], annotations=[], categories=[])
    try:
        content = Content.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        lines = [f"{path.name}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return CocoFile(empty, path.parent, tuple(lines))
    except ValueError as error:
        return CocoFile(empty, path.parent, (f"{path.name}: not JSON: {error}",))
    except RecursionError:
        return CocoFile(empty, path.parent, (f"{path.name}: the JSON is nested too deeply",))
    folder = images or _images_folder(path, content)
    return CocoFile(content, folder, tuple(f"{path.name}: {line}" for line in _problems(content, folder)))


def _images_folder(path: Path, content: Content) -> Path:
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    part = above / path.stem.removeprefix("instances_")
    places = [place for place in (above / "images", above / "data", part, above, path.parent) if place.is_dir()]
    return max(places, key=lambda place: sum((place / image.file_name).is_file() for image in content.images))


def _problems(content: Content, folder: Path) -> Iterable[str]:
    if not content.images:
        yield "it lists no images"
    yield from _duplicates("image", (image.id for image in content.images))
    yield from _duplicates("annotation", (annotation.id for annotation in content.annotations))
    yield from _duplicates("category", (category.id for category in content.categories))
    for name, count in Counter(category.name for category in content.categories).items():
        if count > 1:
            yield f"{count} categories have the name {name!r}"
    for name, count in Counter(image.file_name for image in content.images).items():
        if count > 1:
            yield f"{count} images have the file {name}"
    for image in content.images:
        yield from (f"image {image.id}: {line}" for line in _image_problem(image, folder))
    images = {image.id: image for image in content.images}
    categories = {category.id for category in content.categories}
    for annotation in content.annotations:
        if annotation.category_id not in categories:
            yield f"annotation {annotation.id}: unknown category {annotation.category_id}"
        image_of = images.get(annotation.image_id)
        if image_of is None:
            yield f"annotation {annotation.id}: unknown image {annotation.image_id}"
            continue
        problem = box_problem(annotation.bbox, (image_of.width, image_of.height), image_of.file_name)
        if problem:
            yield f"annotation {annotation.id}: {problem}"


def _image_problem(image: ImageEntry, folder: Path) -> Iterable[str]:
    path = folder / image.file_name
    if not path.resolve().is_relative_to(folder.resolve()):
        yield f"{image.file_name} is outside {folder.name}/"
    elif not path.is_file():
        yield f"{image.file_name} does not exist in {folder.name}/"
    else:
        problem = size_problem(path, (image.width, image.height), "the COCO file")
        if problem:
            yield problem


def _duplicates(kind: str, ids: Iterable[int]) -> Iterable[str]:
    return (f"{kind} id {number} occurs {count} times" for number, count in Counter(ids).items() if count > 1)
