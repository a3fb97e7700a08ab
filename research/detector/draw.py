"""Draw the answers of the built-in segmenter for images of a set: a sheet with boxes, labels, scores and masks.

python -m research.detector.draw --data DATA --set report --out sheet.jpg
"""

from pathlib import Path

import torch

from foursight import models
from foursight.drawing.draw import draw
from foursight.drawing.sheet import contact_sheet
from foursight.serving.encoding import to_answer
from research.detector import data
from research.detector.workspace import parser


def main() -> None:
    """Write a sheet of `--count` images of a set, or of those with `--ids`."""
    options = parser(__doc__)
    options.add_argument("--set", choices=data.SETS, default="report")
    options.add_argument("--count", type=int, default=24)
    options.add_argument("--ids", type=int, nargs="+", help="COCO's image ids")
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    task, tiles = models.load("segment"), []
    photos = data.read(chosen.data, chosen.set)
    wanted = [photo for photo in photos if photo.id in chosen.ids] if chosen.ids else photos[: chosen.count]
    for photo in wanted:
        image = photo.image()
        answer = to_answer(task.card.name, image.size, models.run(task, image), "rle")
        tiles.append((draw(image, answer.predictions), photo.path.name))
    contact_sheet(tiles).save(chosen.out)


if __name__ == "__main__":
    main()
