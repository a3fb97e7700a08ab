"""Measures a detector by pycocotools: `python -m foursight.models.training.evaluate --data DATA`."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.evaluation.measure import Figures, Kind, measure
from foursight.models.networks import rcnn_tiny
from foursight.models.training import data
from foursight.models.training.data import Photo


@torch.inference_mode()
def predict(network: GeneralizedRCNN, photos: list[Photo], category_ids: list[int]) -> list[dict[str, Any]]:
    """The network's answers in COCO's results format; `category_ids` by class index."""
    network.eval()
    results = []
    for photo in photos:
        (answer,) = network([pil_to_tensor(Image.open(photo.path).convert("RGB")).float() / 255])
        boxes = answer["boxes"].numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        for row, box in enumerate(boxes.tolist()):
            result = {
                "image_id": photo.image_id,
                "category_id": category_ids[int(answer["labels"][row])],
                "bbox": box,
                "score": float(answer["scores"][row]),
            }
            if "masks" in answer:
                bitmap = np.asfortranarray((answer["masks"][row, 0] > 0.5).numpy().astype(np.uint8))
                result["segmentation"] = coco_mask.encode(bitmap)
            results.append(result)
    return results


def mean(figures: dict[int, Figures], key: str) -> float:
    """The mean over categories."""
    return round(sum(row[key] for row in figures.values()) / max(len(figures), 1), 4)


def report(
    network: GeneralizedRCNN, folder: Path, photos: list[Photo], ids: list[int]
) -> dict[str, dict[int, Figures]]:
    """Box figures, and mask figures where the network has masks, on the photos of one set."""
    results = predict(network, photos, ids)
    kinds: dict[str, Kind] = {"box": "bbox"}
    if network.roi_heads.has_mask():
        kinds["mask"] = "segm"
    image_ids = [photo.image_id for photo in photos]
    return {name: measure(folder / "instances.json", image_ids, results, kind).classes for name, kind in kinds.items()}


def main() -> None:
    """Print the shipped network's figures on the validation photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--all", action="store_true", help="measure all 80 categories, served or not")
    arguments = parser.parse_args()
    network = rcnn_tiny.load(masks=True)
    ids = [number for number, _, _ in rcnn_tiny.categories()]
    asked = frozenset(ids) if arguments.all else rcnn_tiny.served_ids()
    rcnn_tiny.serve(network, asked)
    for folder in data.FOLDERS:
        photos = [photo for photo in data.read(arguments.data, (folder,)) if photo.is_validation]
        for kind, every in report(network, arguments.data / folder, photos, ids).items():
            figures = {number: row for number, row in every.items() if number in asked}
            means = {key: mean(figures, key) for key in ("ap", "ap50")}
            print(json.dumps({"set": folder, "kind": kind, "photos": len(photos), "mean": means, "each": figures}))


if __name__ == "__main__":
    main()
