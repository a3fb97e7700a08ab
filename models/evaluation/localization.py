"""Evaluates `localize` on photos with objects: whether the box for each image is that of its main object.

The figure is MaxBoxAcc at an IoU of 0.5 (Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods
Right"): the share of images whose box hits. The paper takes the maximum over the thresholds of a heat map; a model that
predicts a box has no threshold.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foursight.models.datasets.value import Part
from foursight.models.evaluation import coco
from foursight.models.evaluation.measure import Located, iou, localization, main_object
from foursight.models.evaluation.predictor import (
    Evaluation,
    EvaluationError,
    Predictor,
    Selection,
    WorstExample,
    normalize_label,
)
from foursight.schema import Prediction


def evaluate(part: Part, predictor: Predictor, selection: Selection) -> Evaluation:
    """Evaluate a localizer on the images that have a main object of a selected category. Raises EvaluationError."""
    truth = coco.truth(part)
    content = truth.content
    labels, chosen = coco.select_categories(content, selection.classes)
    images = content["images"][: selection.limit]
    mains = _main_objects(content, images, chosen)
    measured = [image for image in images if image["id"] in mains]
    if not measured:
        raise EvaluationError("No photo has a main object of the classes, one that covers a tenth of it or more.")
    found, failed = coco.predict(predictor, {image["id"]: truth.paths[image["id"]] for image in measured}, selection)
    rows: list[Located] = []
    errors: list[tuple[float, WorstExample]] = []
    for image in measured:
        if image["id"] not in found:
            continue
        main, predictions = mains[image["id"]], found[image["id"]][:1]
        row = _compare(predictions, main, labels[main["category_id"]], predictor)
        rows.append(row)
        if not row.is_right:
            errors.append((_severity(row), _example(truth.paths[image["id"]], row, predictions, main, labels)))
    overall, classes = localization(rows)
    figures = {
        "photos": len(rows),
        "without_a_main_object": len(images) - len(measured),
        "overall": overall,
        "classes": classes,
        "not_a_label_of_the_model": sorted(name for name in classes if not predictor.knows(name)),
        "failed": failed,
    }
    return Evaluation(figures, [example for _, example in sorted(errors, key=lambda one: one[0])][: selection.worst])


def _main_objects(
    content: dict[str, Any], images: Sequence[dict[str, Any]], chosen: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Return the annotation of each image's main object by image id, if its category is selected."""
    annotations: dict[int, list[dict[str, Any]]] = {}
    for item in content["annotations"]:
        annotations.setdefault(item["image_id"], []).append(item)
    mains = {}
    for image in images:
        main = main_object(annotations.get(image["id"], []), (image["width"], image["height"]))
        if main and main["category_id"] in chosen:
            mains[image["id"]] = main
    return mains


def _compare(predictions: Sequence[Prediction], main: dict[str, Any], name: str, predictor: Predictor) -> Located:
    x, y, width, height = main["bbox"]
    overlap = max((iou(one.box, (x, y, x + width, y + height)) for one in predictions if one.box), default=0.0)
    if not predictor.knows(name):
        return Located(name, overlap, None)
    return Located(name, overlap, any(normalize_label(one.label) == normalize_label(name) for one in predictions))


def _severity(row: Located) -> float:
    """Return a sort key: boxes that miss come first, least overlap first, then wrong labels."""
    return 1 + row.overlap if row.hits else row.overlap


def _example(
    path: Path, row: Located, predictions: Sequence[Prediction], main: dict[str, Any], labels: dict[int, str]
) -> WorstExample:
    predicted = predictions[0].label if predictions else "nothing"
    label = f", predicted {predicted}" if row.label is False else ""
    caption = f"{path.name}: {row.name}, IoU {row.overlap:.2f}{label}"
    return WorstExample(path, caption, predictions, coco.true_objects([main], labels))
