"""Small data sets with boxes, written as the tools of the field write them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.photos import photo

WIDTH, HEIGHT = 320, 200
# In the order in which the files declare them; models sort them.
NAMES = ("tom", "brew")


@dataclass(frozen=True)
class Scene:
    """An image, its file's name without the suffix, and its objects: label, x, y, width, height in pixels."""

    stem: str
    image: Image.Image
    objects: tuple[tuple[str, int, int, int, int], ...]


def scenes(count: int, first: int = 1) -> list[Scene]:
    """Return images with a cat and a cup at random places; every fourth is without objects."""
    chance = random.Random(first)
    parts = photo("chelsea").crop((40, 10, 330, 290)), photo("coffee").crop((150, 60, 460, 330))
    found = []
    for number in range(first, first + count):
        canvas = Image.new("RGB", (WIDTH, HEIGHT), (chance.randrange(90, 160),) * 3)
        objects = []
        for name, part, left in zip(NAMES, parts, chance.sample((8, 165), 2), strict=True):
            side = chance.randrange(90, 140)
            x, y = left + chance.randrange(10), chance.randrange(200 - side)
            if number % 4:
                canvas.paste(part.resize((side, side)), (x, y))
                objects.append((name, x, y, side, side))
        found.append(Scene(f"{number}", canvas, tuple(objects)))
    return found


def save(folder: Path, found: Sequence[Scene], suffix: str = ".png") -> None:
    """Save the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        one.image.save(folder / f"{one.stem}{suffix}")


def coco(root: Path, found: Sequence[Scene], ids: Sequence[int] = (10, 11)) -> Path:
    """Write instances.json and images/."""
    save(root / "images", found)
    rows = [
        {"id": 0, "image_id": number, "category_id": ids[NAMES.index(label)], "bbox": box, "iscrowd": 0}
        for number, one in enumerate(found, 1)
        for label, *box in one.objects
    ]
    listing = {
        "images": [
            {"id": number, "file_name": f"{one.stem}.png", "width": WIDTH, "height": HEIGHT}
            for number, one in enumerate(found, 1)
        ],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
        "categories": [{"id": number, "name": name} for number, name in zip(ids, NAMES, strict=True)],
    }
    (root / "instances.json").write_text(json.dumps(listing))
    return root


def yolo_lines(one: Scene, *, polygons: bool = False) -> str:
    """Return the label file of an image, with six decimals as CVAT and Label Studio write it."""
    lines = []
    for label, x, y, w, h in one.objects:
        if polygons:
            corners = (x, y), (x + w, y), (x + w, y + h), (x, y + h)
            values = [value for left, top in corners for value in (left / WIDTH, top / HEIGHT)]
        else:
            values = [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]
        lines.append(" ".join([str(NAMES.index(label)), *(f"{value:.6f}" for value in values)]))
    return "".join(f"{line}\n" for line in lines)


def yolo_labels(folder: Path, found: Sequence[Scene], *, polygons: bool = False) -> None:
    """Write a label file for each image, an empty one for an image without objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        (folder / f"{one.stem}.txt").write_text(yolo_lines(one, polygons=polygons))


def yolo(root: Path, training: Sequence[Scene], validation: Sequence[Scene] = (), **more: Any) -> Path:
    """Write ultralytics' layout: images/train, labels/train and data.yaml; `more` changes data.yaml."""
    for name, found in (("train", training), ("val", validation)):
        if found:
            save(root / "images" / name, found)
            yolo_labels(root / "labels" / name, found)
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    content = {key: value for key, value in content.items() if validation or key != "val"}
    (root / "data.yaml").write_text(yaml.safe_dump(content | more))
    return root


def voc_xml(
    one: Scene, *, first: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT), suffix: str = ".png", **more: str
) -> str:
    """Return the XML of an image; `first` is 1 for VOC's own counting, `more` has further elements of each object."""
    objects = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x + first}</xmin><ymin>{y + first}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>"
        f"{''.join(f'<{key}>{value}</{key}>' for key, value in more.items())}</object>"
        for label, x, y, w, h in one.objects
    )
    return (
        f"<annotation><folder>JPEGImages</folder><filename>{one.stem}{suffix}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{objects}</annotation>"
    )


def voc(root: Path, training: Sequence[Scene], validation: Sequence[Scene], suffix: str = ".png") -> Path:
    """Write the devkit's layout: JPEGImages, Annotations and ImageSets/Main."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, found in (("train", training), ("val", validation)):
        save(root / "JPEGImages", found, suffix)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{one.stem}\n" for one in found))
        for one in found:
            (root / "Annotations" / f"{one.stem}.xml").write_text(voc_xml(one, suffix=suffix))
    return root


def huggingface(folder: Path, found: Sequence[Scene]) -> Path:
    """Write the images of one side with metadata.jsonl."""
    save(folder, found)
    rows = [
        {
            "file_name": f"{one.stem}.png",
            "objects": {"bbox": [box for _, *box in one.objects], "categories": [label for label, *_ in one.objects]},
        }
        for one in found
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
