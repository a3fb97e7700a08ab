"""A COCO listing of somebody else's making: read, and everything that is wrong with it said at once."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

# Boxes are often rounded outwards.
TOLERANCE_PX = 1.0


class Photo(BaseModel):
    """An entry of `images`; sides in pixels."""

    id: int
    file_name: str
    width: int
    height: int


class Item(BaseModel):
    """An entry of `annotations`; `bbox` is x, y, width and height in pixels of the photo, `segmentation` COCO's."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    area: float | None = None
    segmentation: Any = None


class Category(BaseModel):
    """An entry of `categories`."""

    id: int
    name: str


class Content(BaseModel):
    """What is read of the JSON; COCO has more."""

    images: list[Photo]
    annotations: list[Item]
    categories: list[Category]


@dataclass(frozen=True)
class Listing:
    """A listing, the folder of its photos, and one line for each thing that is wrong with it."""

    content: Content
    folder: Path
    problems: tuple[str, ...]


def find(folder: Path) -> Path | None:
    """The listing of a folder: its one JSON file, or `instances.json` of several; None where there is none."""
    if folder.is_file():
        return folder if folder.suffix == ".json" else None
    found = sorted(folder.glob("*.json"))
    return next((path for path in found if path.name == "instances.json"), found[0] if len(found) == 1 else None)


def read(path: Path) -> Listing:
    """Read a listing; its photos lie in `images/` beside it, or beside it themselves."""
    folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    empty = Content(images=[], annotations=[], categories=[])
    try:
        content = Content.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        lines = [f"{path.name}: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return Listing(empty, folder, tuple(lines))
    except ValueError as error:
        return Listing(empty, folder, (f"{path.name}: not JSON: {error}",))
    return Listing(content, folder, tuple(f"{path.name}: {line}" for line in _problems(content, folder)))


def _problems(content: Content, folder: Path) -> Iterable[str]:
    yield from _twice("image", (photo.id for photo in content.images))
    yield from _twice("annotation", (item.id for item in content.annotations))
    yield from _twice("category", (category.id for category in content.categories))
    for name, count in Counter(category.name for category in content.categories).items():
        if count > 1:
            yield f"{count} categories have the name {name!r}"
    for photo in content.images:
        path = folder / photo.file_name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"image {photo.id}: {photo.file_name} lies outside {folder.name}/"
        elif not path.is_file():
            yield f"image {photo.id}: there is no file {photo.file_name}"
    photos = {photo.id: photo for photo in content.images}
    categories = {category.id for category in content.categories}
    for item in content.annotations:
        if item.category_id not in categories:
            yield f"annotation {item.id}: unknown category {item.category_id}"
        if item.image_id not in photos:
            yield f"annotation {item.id}: unknown image {item.image_id}"
            continue
        yield from _box_problem(item, photos[item.image_id])


def _box_problem(item: Item, photo: Photo) -> Iterable[str]:
    x, y, width, height = item.bbox
    shown = "[" + ", ".join(f"{value:g}" for value in item.bbox) + "]"
    # Not "<= 0": that would let NaN through.
    if not (width > 0 and height > 0):
        yield f"annotation {item.id}: the box {shown} of {photo.file_name} has no area"
    elif not (
        min(x, y) >= -TOLERANCE_PX
        and x + width <= photo.width + TOLERANCE_PX
        and y + height <= photo.height + TOLERANCE_PX
    ):
        yield f"annotation {item.id}: the box {shown} lies outside {photo.file_name} ({photo.width} x {photo.height})"


def _twice(kind: str, ids: Iterable[int]) -> Iterable[str]:
    return (f"{kind} id {number} occurs {count} times" for number, count in Counter(ids).items() if count > 1)
