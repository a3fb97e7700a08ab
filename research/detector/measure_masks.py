"""Measure masks in the boxes that `measure --no-masks` predicted, on the maps that it kept.

python -m research.detector.measure_masks --data DATA --draws 200
"""

import torch

from research.detector import data
from research.detector.evaluate import Evaluation, Found, line
from research.detector.measure import paste
from research.detector.networks import detector
from research.detector.networks.backbone import FINE_SIDE
from research.detector.workspace import parser


@torch.inference_mode()
def main() -> None:
    """Print a line for each set and kind."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=data.SETS, default=["report", "fudan-report"])
    options.add_argument("--draws", type=int, default=0, help="bootstrap draws for the intervals")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    heads = detector.load(masks=True).roi_heads
    for name in chosen.sets:
        every = data.read(chosen.data, name)
        _, found = torch.load(chosen.work / f"found-{name}.pt", weights_only=False)
        kept = torch.load(chosen.work / f"seen-{name}.pt")
        photos, outlined = [], []
        for place, maps in kept.items():
            photo, one = every[place], found[place]
            height, width = photo.size
            own = torch.from_numpy(one.boxes)
            boxes = own * torch.tensor([FINE_SIDE / width, FINE_SIDE / height] * 2)
            cells = heads.mask_roi_pool({f"p{key}": value.float() for key, value in maps.items()}, [boxes], [])
            masks = heads.mask_predictor(heads.mask_head(cells))[:, :1].sigmoid()
            outlined.append(Found(one.boxes, one.scores, one.ids, paste(masks, own, photo.size)))
            photos.append(photo)
        for kind in ("bbox", "segm"):
            figures = Evaluation(photos, outlined, data.class_ids(name), kind).summary(chosen.draws)
            print(name, len(photos), kind, line(figures), flush=True)


if __name__ == "__main__":
    main()
