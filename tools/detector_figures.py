"""Measure the built-in detector and segmenter with pycocotools on their validation images.

    python -m tools.detector_figures --data DATA

DATA has `coco/` and `pennfudan/`, each with `images/` and `instances.json`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.evaluation.measure import Figures, Kind, coco_results, measure
from foursight.models.networks import rcnn_tiny
from foursight.models.training.detection_data import AnnotatedImage
from tools import training_data


def main() -> None:
    """Print the figures as JSON, a line for each data set and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--all", action="store_true", help="measure all 80 categories, not only those served")
    arguments = parser.parse_args()
    network = rcnn_tiny.load(masks=True)
    ids = [number for number, _, _ in rcnn_tiny.categories()]
    chosen = frozenset(ids) if arguments.all else rcnn_tiny.served_ids()
    rcnn_tiny.serve(network, chosen)
    for folder in training_data.FOLDERS:
        images = [image for image in training_data.read(arguments.data, (folder,)) if image.is_validation]
        for kind, classes in evaluate(network, arguments.data / folder, images, ids).items():
            figures = {number: row for number, row in classes.items() if number in chosen}
            means = {key: mean(figures, key) for key in ("ap", "ap50")}
            print(json.dumps({"set": folder, "kind": kind, "images": len(images), "mean": means, "each": figures}))


def evaluate(
    network: GeneralizedRCNN, folder: Path, images: list[AnnotatedImage], ids: list[int]
) -> dict[str, dict[int, Figures]]:
    """Return box metrics, and mask metrics if the network has masks, on images of one data set by category id.

    `ids` has the category id of each class index.
    """
    results = predict(network, images, ids)
    kinds: dict[str, Kind] = {"box": "bbox"}
    if network.roi_heads.has_mask():
        kinds["mask"] = "segm"
    image_ids = [image.image_id for image in images]
    return {name: measure(folder / "instances.json", image_ids, results, kind).classes for name, kind in kinds.items()}


@torch.inference_mode()
def predict(network: GeneralizedRCNN, images: list[AnnotatedImage], ids: list[int]) -> list[dict[str, Any]]:
    """Return the network's predictions in COCO's results format."""
    network.eval()
    results = []
    for image in images:
        (found,) = network([pil_to_tensor(Image.open(image.path).convert("RGB")).float() / 255])
        masks = (mask[0].numpy() > 0.5 for mask in found["masks"]) if "masks" in found else None
        category_ids = [ids[int(index)] for index in found["labels"]]
        results += coco_results(image.image_id, found["boxes"].numpy(), found["scores"], category_ids, masks)
    return results


def mean(figures: dict[int, Figures], key: str) -> float:
    """Return the mean over categories."""
    return round(sum(row[key] for row in figures.values()) / max(len(figures), 1), 4)


if __name__ == "__main__":
    main()
