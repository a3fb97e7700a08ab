"""Draw the predictions on images: a sheet with boxes, labels, scores and masks.

python -m research.detector.draw --data DATA --set report --out sheet.png
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as rle

from research.detector import data
from research.detector.cache_maps import pixels_of
from research.detector.evaluate import Found
from research.detector.measure import look, on_engine
from research.detector.networks import detector
from research.detector.networks.names import CATEGORIES
from research.detector.workspace import parser

LABELS = dict(CATEGORIES)
COLOURS = ((230, 60, 60), (60, 140, 230), (50, 170, 80), (230, 150, 30), (150, 80, 210), (20, 180, 190))
COLUMNS = 6


def main() -> None:
    """Write a PNG of `--count` images of a set."""
    options = parser(__doc__)
    options.add_argument("--set", choices=data.SETS, default="report")
    options.add_argument("--count", type=int, default=24)
    options.add_argument("--threshold", type=float, default=0.4)
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    network = detector.load(masks=True, score_threshold=chosen.threshold)
    run = on_engine(network, chosen.threads)
    sheet = Image.new("RGB", (COLUMNS * 320, -(-chosen.count // COLUMNS) * 250), "white")
    for place, photo in enumerate(data.read(chosen.data, chosen.set)[: chosen.count]):
        found = look(network, run(pixels_of(photo)), photo.size, refine=True, masks=True)
        picture = drawn(photo.image(), found)
        picture.thumbnail((316, 246))
        sheet.paste(picture, (place % COLUMNS * 320, place // COLUMNS * 250))
    sheet.save(chosen.out)


def drawn(image: Image.Image, found: Found) -> Image.Image:
    """The image with its predictions."""
    pixels = np.asarray(image).copy()
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(found.scores))]
    for mask, colour in zip(found.masks or [], colours, strict=False):
        inside = rle.decode(mask).astype(bool)
        pixels[inside] = (pixels[inside] * 0.5 + np.array(colour) * 0.5).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    for box, score, class_id, colour in zip(found.boxes.tolist(), found.scores, found.ids, colours, strict=True):
        draw.rectangle(box, outline=colour, width=3)
        place, text = (box[0] + 4, box[1] + 2), f"{LABELS[int(class_id)]} {score:.2f}"
        draw.text(place, text, "white", font_size=max(image.size) // 24, stroke_width=2, stroke_fill="black")
    return picture


if __name__ == "__main__":
    main()
