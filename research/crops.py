"""Make a small classification data set from a COCO file: objects cut out, in train/CLASS and val/CLASS.

    python -m research.crops --data coco --out crops

Every third image, by the hash of its name, is for validation, with all its objects.
"""

import argparse
import hashlib
from collections import Counter
from pathlib import Path

from PIL import Image

from foursight.models.datasets import coco
from foursight.models.training import classification_data

CLASSES = (
    "bus", "car", "cat", "chair", "cup", "dog", "laptop", "potted plant", "refrigerator", "sink", "toilet", "tv",
)  # fmt: skip
SMALLEST_PX = 48
MOST_OF_A_CLASS = 36


def main() -> None:
    """Cut the objects out, and print the number in each class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with instances.json and images/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", default=CLASSES)
    chosen = parser.parse_args()
    listing = coco.find(chosen.data)
    if listing is None:
        parser.error(f"{chosen.data} has no COCO file")
    found = coco.parse(listing)
    names = {category.id: category.name for category in found.content.categories}
    photos = {photo.id: photo for photo in found.content.images}
    counts: Counter[tuple[str, str]] = Counter()
    for item in found.content.annotations:
        name, photo = names[item.category_id], photos[item.image_id]
        side = "val" if int(hashlib.sha256(photo.file_name.encode()).hexdigest(), 16) % 3 == 0 else "train"
        wanted = name in chosen.classes and not item.iscrowd and min(item.bbox[2:]) >= SMALLEST_PX
        if not wanted or counts["train", name] + counts["val", name] >= MOST_OF_A_CLASS:
            continue
        counts[side, name] += 1
        folder = chosen.out / side / name
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(found.folder / photo.file_name) as image:
            cut = image.convert("RGB").crop(classification_data.square_window(item.bbox, image.size))
        cut.save(folder / f"{item.id}.jpg", quality=95)
    for name in chosen.classes:
        print(f"{name:14} {counts['train', name]:4} train {counts['val', name]:4} val")
    print(f"{'all':14} {sum(n for (s, _), n in counts.items() if s == 'train'):4} train", end=" ")
    print(f"{sum(n for (s, _), n in counts.items() if s == 'val'):4} val")


if __name__ == "__main__":
    main()
