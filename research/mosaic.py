"""Paste the images of a COCO file into large images, where their objects are small: data for `--tiles`.

    python -m research.mosaic instances.json images/ mosaic/
    foursight evaluate mosaic/instances.json --task detect
    foursight evaluate mosaic/instances.json --task detect --tiles 6

Each large image, 4000 x 3000, has 12 images at their own size, at random places (seeded) in cells of 1000 pixels.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image

COLUMNS, ROWS, CELL = 4, 3, 1000


def main(file: Path, images: Path, out: Path) -> None:
    """Write `out`/instances.json and `out`/images."""
    content = json.loads(file.read_text())
    places = random.Random(0)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one)
    (out / "images").mkdir(parents=True, exist_ok=True)
    large, annotations = [], []
    per_image = COLUMNS * ROWS
    for start in range(0, len(content["images"]) - per_image + 1, per_image):
        canvas = Image.new("RGB", (COLUMNS * CELL, ROWS * CELL), (114, 114, 114))
        name = f"{start:05}.jpg"
        for cell, image in enumerate(content["images"][start : start + per_image]):
            pasted = Image.open(images / image["file_name"]).convert("RGB")
            x = cell % COLUMNS * CELL + places.randint(0, CELL - pasted.width)
            y = cell // COLUMNS * CELL + places.randint(0, CELL - pasted.height)
            canvas.paste(pasted, (x, y))
            for one in by_image.get(image["id"], []):
                left, top, width, height = one["bbox"]
                moved = {**one, "image_id": start, "bbox": [left + x, top + y, width, height]}
                if isinstance(one["segmentation"], list):
                    moved["segmentation"] = [
                        [value + (y if odd % 2 else x) for odd, value in enumerate(ring)]
                        for ring in one["segmentation"]
                    ]
                    annotations.append(moved)
        canvas.save(out / "images" / name, quality=92)
        large.append({"id": start, "file_name": name, "width": canvas.width, "height": canvas.height})
    written = {"images": large, "annotations": annotations, "categories": content["categories"]}
    (out / "instances.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
