"""A COCO file as an evaluation reads it: its images, its categories, and the predictions for them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foursight.models.evaluation.predictor import (
    EvaluationError,
    NoPredictionsError,
    Predictor,
    Selection,
    normalize_label,
    predict_all,
)
from foursight.schema import Prediction


def read(file: Path) -> dict[str, Any]:
    """Read a COCO file. Raises EvaluationError."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        for part in ("images", "annotations", "categories"):
            if not isinstance(content[part], list):
                raise TypeError(part)
    except OSError as error:
        raise EvaluationError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EvaluationError(f"{file} is not a COCO file: it needs images, annotations and categories.") from None
    if not content["images"]:
        raise EvaluationError(f"{file} lists no images.")
    return content


def images_folder(file: Path, images: Path | None) -> Path:
    """Return the folder of a COCO file's images: `images`, or images/ beside the file, or the file's own folder."""
    return images or (file.parent / "images" if (file.parent / "images").is_dir() else file.parent)


def select_categories(content: dict[str, Any], classes: Sequence[str] | None) -> tuple[dict[int, str], list[int]]:
    """Return the label of each category id, and the selected ids. Raises EvaluationError."""
    ids = {normalize_label(category["name"]): category["id"] for category in content["categories"]}
    labels = {category["id"]: category["name"] for category in content["categories"]}
    unknown = [name for name in classes or () if normalize_label(name) not in ids]
    if unknown:
        raise EvaluationError(f"The data has no category {unknown[0]!r}. Its categories: {', '.join(labels.values())}.")
    return labels, [ids[normalize_label(name)] for name in classes] if classes else list(labels)


def predict(
    predictor: Predictor, folder: Path, images: Sequence[dict[str, Any]], selection: Selection
) -> tuple[dict[int, Sequence[Prediction]], list[dict[str, str]]]:
    """Return predictions by image id, and the images that failed. Raises NoPredictionsError if none succeeded."""
    found: dict[int, Sequence[Prediction]] = {}
    failed = []
    paths = [folder / image["file_name"] for image in images]
    for index, predictions in predict_all(predictor, paths, selection.on_progress):
        if isinstance(predictions, str):
            failed.append({"file": str(paths[index]), "error": predictions})
        else:
            found[images[index]["id"]] = predictions
    if not found:
        raise NoPredictionsError(f"All images failed. The first one: {failed[0]['file']}: {failed[0]['error']}")
    return found, failed


def true_objects(annotations: Iterable[dict[str, Any]], labels: dict[int, str]) -> list[Prediction]:
    """Return annotations as predictions with a score of 1, to be drawn."""
    return [
        Prediction(
            label=labels[item["category_id"]],
            class_id=item["category_id"],
            score=1,
            wnid=None,
            box=(x, y, x + width, y + height),
            classification=None,
        )
        for item in annotations
        for x, y, width, height in [item["bbox"]]
    ]
