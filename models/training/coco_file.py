"""Read a COCO annotation file and collect everything that is wrong with it."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ValidationError

from foursight.models.errors import ImageError
from foursight.models.training import layout

# Annotation tools often round boxes outwards.
TOLERANCE_PX = 1.0


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
    """The content of a COCO file, the folder of its images, and one line for each problem in it.

    `notes` names the categories that have no annotation; `content` is without them.
    """

    content: Content
    folder: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def find(folder: Path) -> Path | None:
    """Return a folder's COCO file: `instances.json`, or its only JSON file; in the folder or in its `annotations/`.

    For a folder `train2017` also `instances_train2017.json` in `annotations/` beside it. None if there is none of them.
    """
    if folder.is_file():
        return folder if folder.suffix == ".json" else None
    folder = layout.unwrap(folder)
    for place in (folder, folder / "annotations"):
        found = sorted(path for path in place.glob("*.json") if layout.is_visible(path))
        named = [path for path in found if path.name == "instances.json"] or found
        if len(named) == 1:
            return named[0]
    beside = folder.parent / "annotations" / f"instances_{folder.name}.json"
    return beside if beside.is_file() else None


def read(path: Path) -> CocoFile:
    """Read a COCO file. Its images are in `images/` or `data/` beside it, or in its own folder.

    From `annotations/`, these are looked for in the folder above. The folder that has the most of the images is taken.
    """
    empty = Content(images=[], annotations=[], categories=[])
    try:
        content = Content.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        lines = [f"{path.name}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return CocoFile(empty, path.parent, tuple(lines))
    except ValueError as error:
        return CocoFile(empty, path.parent, (f"{path.name}: not JSON: {error}",))
    folder = _images_folder(path, content)
    problems = tuple(f"{path.name}: {line}" for line in _problems(content, folder))
    used = {annotation.category_id for annotation in content.annotations}
    unused = [category.name for category in content.categories if category.id not in used]
    kept = [category for category in content.categories if category.id in used]
    notes = (f"left out: no annotation has the category {', '.join(unused)}",) if unused else ()
    return CocoFile(content.model_copy(update={"categories": kept}), folder, problems, notes)


def _images_folder(path: Path, content: Content) -> Path:
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    part = above / path.stem.removeprefix("instances_")
    places = [place for place in (above / "images", above / "data", part, above, path.parent) if place.is_dir()]
    return max(places, key=lambda place: sum((place / image.file_name).is_file() for image in content.images))


def check_size(image: Image.Image, size: tuple[int, int]) -> None:
    """Raise ImageError if a decoded image has another (width, height) than the COCO file says."""
    if image.size != size:
        actual, expected = (" x ".join(map(str, each)) for each in (image.size, size))
        raise ImageError(
            "not_an_image",
            f"The image is {actual} pixels, the COCO file says {expected}.",
            "Correct the COCO file.",
        )


def _problems(content: Content, folder: Path) -> Iterable[str]:
    yield from _duplicates("image", (image.id for image in content.images))
    yield from _duplicates("annotation", (annotation.id for annotation in content.annotations))
    yield from _duplicates("category", (category.id for category in content.categories))
    for name, count in Counter(category.name for category in content.categories).items():
        if count > 1:
            yield f"{count} categories have the name {name!r}"
    for image in content.images:
        path = folder / image.file_name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"image {image.id}: {image.file_name} is outside {folder.name}/"
        elif not path.is_file():
            yield f"image {image.id}: {image.file_name} does not exist"
    images = {image.id: image for image in content.images}
    categories = {category.id for category in content.categories}
    for annotation in content.annotations:
        if annotation.category_id not in categories:
            yield f"annotation {annotation.id}: unknown category {annotation.category_id}"
        if annotation.image_id not in images:
            yield f"annotation {annotation.id}: unknown image {annotation.image_id}"
            continue
        yield from _box_problem(annotation, images[annotation.image_id])


def _box_problem(annotation: Annotation, image: ImageEntry) -> Iterable[str]:
    x, y, width, height = annotation.bbox
    shown = "[" + ", ".join(f"{value:g}" for value in annotation.bbox) + "]"
    # Not "<= 0", which is False for NaN.
    if not (width > 0 and height > 0):
        yield f"annotation {annotation.id}: the box {shown} of {image.file_name} has no area"
    elif not (
        min(x, y) >= -TOLERANCE_PX
        and x + width <= image.width + TOLERANCE_PX
        and y + height <= image.height + TOLERANCE_PX
    ):
        size = f"{image.width} x {image.height}"
        yield f"annotation {annotation.id}: the box {shown} is outside {image.file_name} ({size})"


def _duplicates(kind: str, ids: Iterable[int]) -> Iterable[str]:
    return (f"{kind} id {number} occurs {count} times" for number, count in Counter(ids).items() if count > 1)
