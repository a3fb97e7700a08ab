"""Evaluates `detect` and `segment` on photos with objects: pycocotools' AP and AR of boxes and of masks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foursight.models.datasets.faults import bad_data
from foursight.models.datasets.outlines import outline_problems
from foursight.models.datasets.value import Part
from foursight.models.evaluation import coco
from foursight.models.evaluation.measure import COUNTED_SCORE, ImageScore, Kind, coco_results, measure
from foursight.models.evaluation.predictor import (
    Evaluation,
    EvaluationError,
    Predictor,
    Selection,
    WorstExample,
    normalize_label,
)
from foursight.schema import Prediction, Rle


def evaluate(part: Part, predictor: Predictor, selection: Selection) -> Evaluation:
    """Evaluate a detector. Raises EvaluationError, and DataError (bad_data) for outlines that are missing or wrong."""
    if predictor.task == "segment":
        problems = tuple(outline_problems(part.photos))
        if problems:
            raise bad_data(problems)
    truth = coco.truth(part)
    content = truth.content
    labels, chosen = coco.select_categories(content, selection.classes)
    ids = {normalize_label(label): number for number, label in labels.items()}
    if not any(predictor.knows(labels[number]) for number in chosen):
        known = ", ".join(predictor.labels[:20])
        raise EvaluationError(f"No category of the data is a label of {predictor.model}: {known}.")
    paths = dict(list(truth.paths.items())[: selection.limit])
    found, failed = coco.predict(predictor, paths, selection)
    results = [result for number, predictions in found.items() for result in _to_coco(number, predictions, ids)]
    kinds: dict[str, Kind] = {"box": "bbox", "mask": "segm"} if predictor.task == "segment" else {"box": "bbox"}
    measured = {name: measure(content, found, results, kind, chosen) for name, kind in kinds.items()}
    worst = [
        _example(score, paths[score.image_id], found[score.image_id], content, labels, chosen)
        for score in _order(measured["box"].images)[: selection.worst]
    ]
    figures = {
        "photos": len(found),
        "overall": {name: one.overall for name, one in measured.items()},
        "classes": {
            labels[number]: {name: one.classes[number] for name, one in measured.items()}
            for number in measured["box"].classes
        },
        "not_a_label_of_the_model": sorted(
            labels[number] for number in measured["box"].classes if not predictor.knows(labels[number])
        ),
        "failed": failed,
    }
    return Evaluation(figures, worst)


def _to_coco(image_id: int, predictions: Sequence[Prediction], ids: dict[str, int]) -> list[dict[str, Any]]:
    """Return predictions in COCO's results format. Labels that the data does not have are left out."""
    measured = [one for one in predictions if normalize_label(one.label) in ids]
    masks = [one.mask.model_dump() for one in measured if isinstance(one.mask, Rle)]
    return coco_results(
        image_id,
        [one.box for one in measured if one.box],
        [one.score for one in measured],
        [ids[normalize_label(one.label)] for one in measured],
        masks or None,
    )


def _order(tallies: Iterable[ImageScore]) -> list[ImageScore]:
    """Sort the images that have errors: lowest F1 first, and among equals the most errors first."""
    wrong = [score for score in tallies if score.missed + score.wrong]
    return sorted(wrong, key=lambda score: (score.f1, -(score.missed + score.wrong)))


def _example(
    score: ImageScore,
    path: Path,
    predictions: Sequence[Prediction],
    content: dict[str, Any],
    labels: dict[int, str],
    chosen: Sequence[int],
) -> WorstExample:
    names = {normalize_label(labels[number]) for number in chosen}
    predicted = [one for one in predictions if one.score >= COUNTED_SCORE and normalize_label(one.label) in names]
    annotations = [
        item
        for item in content["annotations"]
        if item["image_id"] == score.image_id and item["category_id"] in chosen and not item.get("iscrowd")
    ]
    caption = f"{path.name}: {score.found} of {score.found + score.missed} found, {score.wrong} wrong"
    return WorstExample(path, caption, predicted, coco.true_objects(annotations, labels))
