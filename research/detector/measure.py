"""Measure the detector on sets of images: boxes, and masks where the objects have outlines.

    python -m research.detector.measure --data DATA --sets report fudan-report --draws 200

The network is the product's in PyTorch; its `forward` is torchvision's. The predictions are kept in the work
folder for thresholds.py and localize.py.
"""

import argparse
import time

import numpy as np
import torch
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import to_tensor

from foursight.models import coco
from foursight.models.evaluation.measure import encode_mask
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from research.detector import data
from research.detector.evaluate import Evaluation, Found, line
from research.detector.workspace import parser

# Less than what is served: average precision counts unlikely boxes too.
SCORE_THRESHOLD = 0.02
IDS = np.array((0, *coco.IDS))


def main() -> None:
    """Print a line for each set and kind."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=data.SETS, default=["choose"])
    options.add_argument("--draws", type=int, default=0, help="bootstrap draws for the intervals")
    options.add_argument("--no-masks", action="store_true")
    options.add_argument("--first", type=int, help="only the first images of each set")
    chosen = options.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    boxes, masks = load(masks=False), None if chosen.no_masks else load(masks=True)
    for name in chosen.sets:
        measure(boxes, masks, name, chosen)


def load(masks: bool) -> GeneralizedRCNN:
    """Return the network."""
    network = ssd_rcnn.load(masks)
    network.roi_heads.score_thresh = SCORE_THRESHOLD
    return network


def measure(boxes: GeneralizedRCNN, masks: GeneralizedRCNN | None, name: str, chosen: argparse.Namespace) -> None:
    """Run the detector over a set, keep the predictions, print the figures."""
    photos, start = data.read(chosen.data, name)[: chosen.first], time.time()
    found = [look(masks if masks and photo.outlined else boxes, photo) for photo in photos]
    torch.save(found, chosen.work / f"found-{name}.pt")
    print(f"{name}: {len(photos)} images, {time.time() - start:.0f} s", flush=True)
    class_ids = data.class_ids(name)
    print(f"  boxes: {line(Evaluation(photos, found, class_ids).summary(chosen.draws))}", flush=True)
    if class_ids is None:
        print(f"  person: {line(Evaluation(photos, found, [data.PERSON_ID]).summary(chosen.draws))}", flush=True)
    rows = [row for row, one in enumerate(found) if one.masks is not None]
    if rows:
        evaluation = Evaluation([photos[row] for row in rows], [found[row] for row in rows], class_ids, "segm")
        print(f"  masks ({len(rows)} images): {line(evaluation.summary(chosen.draws))}", flush=True)


@torch.inference_mode()
def look(network: GeneralizedRCNN, photo: data.Photo) -> Found:
    """Return the predictions for an image, with masks if the network has them."""
    (found,) = network([to_tensor(photo.image())])
    masks = [encode_mask(mask[0].numpy() > 0.5) for mask in found["masks"]] if "masks" in found else None
    return Found(found["boxes"].numpy(), found["scores"].numpy(), IDS[found["labels"].numpy()], masks)


if __name__ == "__main__":
    main()
