"""Runs the evaluation that fits a predictor's task."""

from foursight.models.datasets.value import DataSet
from foursight.models.evaluation import classification, detection, localization
from foursight.models.evaluation.predictor import Evaluation, EvaluationError, Predictor, Selection
from foursight.schema.tasks import TASKS


def require(task: str, data: DataSet) -> None:
    """Raise EvaluationError unless the data is of the kind that a task is evaluated on."""
    if TASKS[task].finds == "labels":
        if not data.has_labels:
            raise EvaluationError(
                f"{task} is evaluated on photos with a label each, such as a folder per class, "
                f"and {data.place} is in {data.format} format without them."
            )
    elif not data.has_objects:
        raise EvaluationError(
            f"{task} is evaluated on photos with boxes, and {data.place} is in {data.format} format without them."
        )


def describe(data: DataSet) -> list[str]:
    """Return lines that say what was read, which side of it is evaluated, and what was left out."""
    part = data.parts[-1]
    side = f"; the {len(part.photos)} of {part.name} are evaluated" if len(data.parts) > 1 else ""
    notes = (*data.notes, *(note for one in data.parts for note in one.notes))
    return [f"Read {data.source}{side}.", *(f"note: {note}" for note in notes)]


def evaluate(data: DataSet, predictor: Predictor, selection: Selection) -> Evaluation:
    """Evaluate a predictor on the photos of a data set: those for validation, if it has a split.

    Raises EvaluationError, and DataError (bad_data) if outlines are needed and wrong.
    """
    require(predictor.task, data)
    finds = TASKS[predictor.task].finds
    part = data.parts[-1]
    if finds == "labels":
        return classification.evaluate(part, predictor, selection)
    if finds == "object":
        return localization.evaluate(part, predictor, selection)
    return detection.evaluate(part, predictor, selection)
