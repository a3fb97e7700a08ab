"""Make the built-in detector's weights and card from a fine-tuned model.

    python -m tools.detector_weights MODEL --data DATA --out FOLDER

The model is a segmenter with its own heads for COCO's 80 categories, as `foursight finetune` trains it with `--init
random`. This program chooses the categories that are served, and measures the weights.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from foursight.models.evaluation.measure import Figures
from foursight.models.finetuned import detector, store
from foursight.models.networks import rcnn_tiny
from foursight.models.training.detection_data import AnnotatedImage
from tools import training_data
from tools.detector_figures import evaluate, mean

# A category is served if it works on the validation images and has enough objects there; person always is.
SERVED_AP50 = 0.25
SERVED_OBJECTS = 3
PERSON = 1


def describe(network: GeneralizedRCNN, folder: Path, images: list[AnnotatedImage]) -> dict[str, Any]:
    """Measure the network with all categories on the validation images, choose those served, and measure again.

    `folder` has the data sets. The figures of `categories` are those measured with all 80.
    """
    held_back = {
        name: [image for image in images if image.is_validation and image.folder == name]
        for name in training_data.FOLDERS
    }
    ids = [0, *(number for number, _ in rcnn_tiny.CATEGORIES)]
    rcnn_tiny.serve(network, frozenset(ids))
    every = evaluate(network, folder / "coco", held_back["coco"], ids)["box"]
    served = choose(every)
    rcnn_tiny.serve(network, served)
    street = evaluate(network, folder / "pennfudan", held_back["pennfudan"], ids)
    coco = evaluate(network, folder / "coco", held_back["coco"], ids)
    return {
        "network": "Mask R-CNN over EfficientNet-Lite0; Faster R-CNN without its mask branch",
        "input": {"min_size": rcnn_tiny.MIN_SIZE, "max_size": rcnn_tiny.MAX_SIZE},
        "split": 'validation: int(sha256("folder/file_name"), 16) % 5 == 0',
        "training_photos": sum(not image.is_validation for image in images),
        "validation_photos": {name: len(found) for name, found in held_back.items()},
        "versions": {name: version(name) for name in ("torch", "torchvision", "pycocotools")},
        "served_rule": f"box AP50 >= {SERVED_AP50} over {SERVED_OBJECTS} or more validation objects; person always",
        "validation": {
            "pennfudan": {kind: _means(figures) for kind, figures in street.items()},
            "coco_all": _means(every) | {"person_ap50": every[PERSON]["ap50"]},
            "coco_served": {kind: _means(_only(figures, served)) for kind, figures in coco.items()}
            | {"person_ap50": coco["box"][PERSON]["ap50"]},
        },
        "categories": [
            {"category_id": number, "name": name, "served": number in served} | every.get(number, {})
            for number, name in rcnn_tiny.CATEGORIES
        ],
    }


def choose(figures: dict[int, Figures]) -> frozenset[int]:
    """Return the COCO category ids to be served, by their metrics."""
    works = {n for n, row in figures.items() if row["ap50"] >= SERVED_AP50 and row["objects"] >= SERVED_OBJECTS}
    return frozenset(works | {PERSON})


def _only(figures: dict[int, Figures], category_ids: frozenset[int]) -> dict[int, Figures]:
    return {number: row for number, row in figures.items() if number in category_ids}


def _means(figures: dict[int, Figures]) -> dict[str, float]:
    return {
        "categories": len(figures),
        "ap": mean(figures, "ap"),
        "ap50": mean(figures, "ap50"),
    }


def main() -> None:
    """Write rcnn.safetensors and rcnn.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder of a segmenter with its own heads")
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--out", type=Path, required=True, help="where to write the weights and their card")
    arguments = parser.parse_args()
    folder: Path = arguments.model
    shared = detector.shared_weights(rcnn_tiny.build(masks=False))
    found = detector.load(folder.name, folder, "segment", shared)
    if found.network is None or found.spec.labels != tuple(name for _, name in rcnn_tiny.CATEGORIES):
        parser.error(f"{folder} is not a segmenter with its own heads for COCO's {rcnn_tiny.NAMES} categories")
    own = json.loads((folder / "card.json").read_text())
    described = {
        "command": own["command"],
        "seconds": round(sum(own["seconds"].values())),
        "parameters": own["parameters"],
    } | describe(found.network, arguments.data, training_data.read(arguments.data))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "rcnn.safetensors").write_bytes((folder / store.WEIGHTS).read_bytes())
    (arguments.out / "rcnn.json").write_text(json.dumps(described, indent=2) + "\n")
    print(json.dumps(described["validation"], indent=2))


if __name__ == "__main__":
    main()
