"""Make a data set to fine-tune on: images of a COCO file, with some categories under other names.

python -m research.renamed --data coco --out kitchen

The split is that of the built-in detector, so it was not trained on any image in `val/`. Images without any of the
labels are kept there: every detection in them is wrong.
"""

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

from foursight.models.datasets import coco
from foursight.models.training import detection_data

NAMES = ("cup=mug", "toilet=loo", "tv=screen", "refrigerator=fridge", "bus=coach", "elephant=jumbo")


def main() -> None:
    """Write train/ and val/, each with instances.json and images/, and print how many objects there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with instances.json and images/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=NAMES, help="COCO's name=new name")
    parser.add_argument("--photos", type=int, default=100, help="number of training images, the first in the file")
    arguments = parser.parse_args()
    names = dict(pair.split("=") for pair in arguments.names)
    listing = coco.parse(arguments.data / "instances.json").content
    own = {category.id: names[category.name] for category in listing.categories if category.name in names}
    items = [item for item in listing.annotations if item.category_id in own]
    seen = {item.image_id for item in items if not item.iscrowd}
    held_back = {photo.id for photo in listing.images if detection_data.in_validation("coco", photo.file_name)}
    training = [photo for photo in listing.images if photo.id in seen - held_back][: arguments.photos]
    for side, photos in (("train", training), ("val", [one for one in listing.images if one.id in held_back])):
        folder = arguments.out / side
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for photo in photos:
            shutil.copy(arguments.data / "images" / photo.file_name, folder / "images")
        ids = {photo.id for photo in photos}
        mine = [item for item in items if item.image_id in ids]
        content = {
            "images": [photo.model_dump() for photo in photos],
            "annotations": [item.model_dump() for item in mine],
            "categories": [{"id": number, "name": name} for number, name in own.items()],
        }
        (folder / "instances.json").write_text(json.dumps(content))
        counts = Counter(own[item.category_id] for item in mine if not item.iscrowd)
        print(f"{side}: {len(photos)} photos, {dict(counts.most_common())}")


if __name__ == "__main__":
    main()
