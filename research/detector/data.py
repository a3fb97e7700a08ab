"""The images that the study trains on, chooses on and reports on, and how they are split.

    python -m research.detector.data --data DATA [--out splits.json]

COCO images of val2017 (in `coco` and `coco_more`) are split by image id: `report` if the SHA-256 of "13/<id>" is even,
`choose` if it is odd. Those of train2017, which the SSD has seen, are for training only. Penn-Fudan: a quarter, by the
same hash of the file name, is for `report`. Animals: the images with names of VOC whose number ends in 3 are for
`report`, in 7 for `choose`. `people` are street photographs with one outlined person each, for training only.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools import mask as rle
from scipy import ndimage
from scipy.io import loadmat

from research.detector.workspace import WEIGHTS, parser

# The categories of the Animal Pose data set as COCO's ids: dog, cat, sheep, horse, cow.
ANIMAL_IDS = {1: 18, 2: 17, 3: 20, 4: 19, 5: 21}
VOC_NAME = re.compile(r"\d{4}_\d{6}\.jpg")
PERSON_ID = 1
SETS = ("train", "choose", "report", "fudan-train", "fudan-report", "voc-choose", "voc-report", "people")
# The sets of splits.json: those of the animals follow from the file names.
WRITTEN = ("report", "choose", "train", "fudan-report")


@dataclass(frozen=True)
class Photo:
    """An image file with its objects as COCO has them (`bbox` xywh in pixels, `iscrowd`, `segmentation`).

    `size` is (height, width); `id` is COCO's, or the name of the file.
    """

    id: int | str
    path: Path
    size: tuple[int, int]
    objects: tuple[dict[str, Any], ...]
    training: bool = False

    @property
    def outlined(self) -> bool:
        """Whether all objects have outlines."""
        return all(item.get("segmentation") for item in self.objects)

    def image(self) -> Image.Image:
        """Return the upright image in RGB."""
        return ImageOps.exif_transpose(Image.open(self.path)).convert("RGB")


def main() -> None:
    """Write which images are in which set."""
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=WEIGHTS / "splits.json")
    chosen = options.parse_args()
    splits = {name: [photo.id for photo in read(chosen.data, name)] for name in WRITTEN}
    for name, ids in splits.items():
        print(f"{name:12} {len(ids)}")
    chosen.out.write_text(json.dumps(splits) + "\n")


def read(data: Path, name: str) -> list[Photo]:
    """Return the images of one of SETS."""
    if name.startswith("voc-"):
        return _animals(data / "animals", last_digit={"report": "3", "choose": "7"}[name[4:]])
    if name == "people":
        return list(_people(data / "people"))
    if name.startswith("fudan-"):
        return [
            photo for photo in _listing(data / "pennfudan") if (_part(photo.id, 4) == 0) == (name == "fudan-report")
        ]
    photos = [photo for folder in ("coco", "coco_more") for photo in _listing(data / folder)]
    return [p for p in photos if name == ("train" if p.training else ("report", "choose")[_part(p.id, 2)])]


def class_ids(name: str) -> list[int] | None:
    """The classes that a set is measured on; None: all."""
    return {"voc": sorted(ANIMAL_IDS.values()), "fudan": [PERSON_ID]}.get(name.split("-", maxsplit=1)[0])


def _part(key: object, parts: int) -> int:
    return int(hashlib.sha256(f"13/{key}".encode()).hexdigest(), 16) % parts


def _animals(folder: Path, last_digit: str) -> list[Photo]:
    listing = json.loads((folder / "keypoints.json").read_text())
    objects: dict[str, list[dict[str, Any]]] = {}
    for row in listing["annotations"]:
        x1, y1, x2, y2 = row["bbox"]
        item = {"category_id": ANIMAL_IDS[row["category_id"]], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        objects.setdefault(str(row["image_id"]), []).append(item | {"area": (x2 - x1) * (y2 - y1)})
    found = []
    for key, name in listing["images"].items():
        if VOC_NAME.fullmatch(name) and name[-5] == last_digit:
            path = folder / "images" / name
            with Image.open(path) as image:
                width, height = image.size
            found.append(Photo(name, path, (height, width), tuple(objects.get(key, ()))))
    return found


def _people(folder: Path) -> Iterator[Photo]:
    """Images of Clothing Co-Parsing (Yang et al. 2014): a person is what is labelled as clothes, skin or hair."""
    for path in sorted((folder / "annotations" / "pixel-level").glob("*.mat")):
        person = _without_islands(loadmat(path)["groundtruth"] > 0)
        rows, columns = np.flatnonzero(person.any(1)), np.flatnonzero(person.any(0))
        if not len(rows):
            continue
        x, y = int(columns[0]), int(rows[0])
        item = {
            "category_id": PERSON_ID,
            "iscrowd": 0,
            "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
            "segmentation": rle.encode(np.asfortranarray(person.astype(np.uint8))),
            "area": int(person.sum()),
        }
        yield Photo(path.stem, folder / "photos" / f"{path.stem}.jpg", person.shape, (item,), training=True)


def _without_islands(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without the parts that have less than 2 % of the area of the largest."""
    parts, _ = ndimage.label(mask)
    areas = np.bincount(parts.ravel(), mask.ravel())
    kept: NDArray[np.bool_] = (areas > 0.02 * areas.max())[parts] & mask
    return kept


def _listing(folder: Path) -> list[Photo]:
    listing = json.loads((folder / "instances.json").read_text())
    objects: dict[int, list[dict[str, Any]]] = {}
    for row in listing["annotations"]:
        objects.setdefault(row["image_id"], []).append(row)
    return [
        Photo(
            row["file_name"] if folder.name == "pennfudan" else row["id"],
            folder / "images" / row["file_name"],
            (row["height"], row["width"]),
            tuple(objects.get(row["id"], ())),
            training="train2017" in row.get("coco_url", ""),
        )
        for row in listing["images"]
    ]


if __name__ == "__main__":
    main()
