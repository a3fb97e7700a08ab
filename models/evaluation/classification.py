"""Evaluates `classify` on photos with a label each: top-1 and top-5 accuracy."""

from collections.abc import Iterable
from difflib import get_close_matches

from foursight.models.datasets.value import Part
from foursight.models.evaluation.measure import accuracy
from foursight.models.evaluation.predictor import (
    Evaluation,
    EvaluationError,
    Predictor,
    Selection,
    WorstExample,
    normalize_label,
    predict_all,
)
from foursight.schema import Prediction


def evaluate(part: Part, predictor: Predictor, selection: Selection) -> Evaluation:
    """Evaluate a classifier. Raises EvaluationError."""
    images = [
        (photo.path, photo.label)
        for photo in part.photos
        if photo.label is not None and (selection.classes is None or photo.label in selection.classes)
    ][: selection.limit]
    if not images:
        raise EvaluationError(f"No photo has one of the labels {', '.join(selection.classes or ())}.")
    _require_labels(dict.fromkeys(label for _, label in images), predictor)
    truth: list[str] = []
    ranked: list[list[str]] = []
    errors: list[tuple[float, WorstExample]] = []
    failed = []
    for index, predictions in predict_all(predictor, [path for path, _ in images], selection.on_progress):
        path, label = images[index]
        if isinstance(predictions, str):
            failed.append({"file": str(path), "error": predictions})
            continue
        best = [label if _matches(label, one) else one.label for one in predictions]
        truth.append(label)
        ranked.append(best)
        if best[:1] != [label]:
            # The most confident wrong labels come first.
            first = predictions[0]
            errors.append((-first.score, WorstExample(path, f"{label}: predicted {first.label}", predictions, ())))
    overall, classes = accuracy(truth, ranked, len(predictor.labels))
    worst = [example for _, example in sorted(errors, key=lambda error: error[0])][: selection.worst]
    return Evaluation({"photos": len(truth), "overall": overall, "classes": classes, "failed": failed}, worst)


def _require_labels(names: Iterable[str], predictor: Predictor) -> None:
    for name in names:
        is_wnid = predictor.has_wnids and name[:1] == "n" and len(name) == 9 and name[1:].isdecimal()
        if not predictor.knows(name) and not is_wnid:
            close = ", ".join(get_close_matches(normalize_label(name), predictor.known, n=3, cutoff=0.5))
            raise EvaluationError(f"The model has no label {name!r}.{f' Closest: {close}.' if close else ''}")


def _matches(name: str, prediction: Prediction) -> bool:
    return name == prediction.wnid or normalize_label(name) == normalize_label(prediction.label)
