"""Runs the evaluation that fits a predictor's task."""

from pathlib import Path

from foursight.models.evaluation import classification, detection, localization
from foursight.models.evaluation.predictor import Evaluation, EvaluationError, Predictor, Selection
from foursight.schema.tasks import TASKS


def require_data(task: str, data: Path) -> None:
    """Raise EvaluationError unless the data is of the kind that a task is evaluated on."""
    needs_folder = TASKS[task].finds == "labels"
    if needs_folder != data.is_dir():
        raise EvaluationError(f"{task} is evaluated on {'a folder of images' if needs_folder else 'a COCO file'}.")


def evaluate(data: Path, images: Path | None, predictor: Predictor, selection: Selection) -> Evaluation:
    """Evaluate a predictor on a COCO file, whose images may be in the folder `images`, or on a folder of images.

    Raises EvaluationError.
    """
    require_data(predictor.task, data)
    finds = TASKS[predictor.task].finds
    if finds == "labels":
        return classification.evaluate(data, predictor, selection)
    if finds == "object":
        return localization.evaluate(data, images, predictor, selection)
    return detection.evaluate(data, images, predictor, selection)
