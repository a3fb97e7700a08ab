"""Read the two data sets that the built-in weights are trained on: COCO images and Penn-Fudan."""

import json
from pathlib import Path
from typing import Any

from foursight.models.datasets.outlines import as_rle
from foursight.models.training.detection_data import AnnotatedImage

FOLDERS = ("coco", "pennfudan")


def read(data: Path, folders: tuple[str, ...] = FOLDERS) -> list[AnnotatedImage]:
    """Return all images of these folders, each with `images/` and `instances.json`, without crowds.

    The objects keep COCO's category ids.
    """
    found = []
    for folder in folders:
        content = json.loads((data / folder / "instances.json").read_text())
        objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            if not annotation["iscrowd"]:
                rle = as_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
                objects[annotation["image_id"]].append(annotation | {"segmentation": rle})
        found += [
            AnnotatedImage(
                folder,
                data / folder / "images" / image["file_name"],
                image["id"],
                sizes[image["id"]],
                tuple(objects[image["id"]]),
            )
            for image in content["images"]
        ]
    return found
