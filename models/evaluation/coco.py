"""Photos with objects as an evaluation uses them: in COCO's format, with the predictions for them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foursight.models.datasets.value import Part
from foursight.models.evaluation.predictor import (
    EvaluationError,
    NoPredictionsError,
    Predictor,
    Selection,
    normalize_label,
    predict_all,
)
from foursight.schema import Prediction


@dataclass(frozen=True)
class Truth:
    """The photos as COCO's `content`, and the file of each image by its id."""

    content: dict[str, Any]
    paths: dict[int, Path]


def truth(part: Part) -> Truth:
    """Return the photos with their objects in COCO's format."""
    names = sorted({*part.declared, *(one.label for photo in part.photos for one in photo.objects)})
    ids = {name: number for number, name in enumerate(names, 1)}
    photos = dict(enumerate(part.photos, 1))
    rows = [
        {"image_id": number, "category_id": ids[one.label], "bbox": list(one.box), "iscrowd": int(one.is_crowd)}
        | ({"segmentation": one.segmentation} if one.segmentation else {})
        | ({} if one.area is None else {"area": one.area})
        for number, photo in photos.items()
        for one in photo.objects
    ]
    images = [
        {"id": number, "file_name": photo.path.name, "width": photo.size[0], "height": photo.size[1]}
        for number, photo in photos.items()
        if photo.size
    ]
    content = {
        "images": images,
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }
    return Truth(content, {number: photo.path for number, photo in photos.items()})


def select_categories(content: dict[str, Any], classes: Sequence[str] | None) -> tuple[dict[int, str], list[int]]:
    """Return the label of each category id, and the selected ids. Raises EvaluationError."""
    ids = {normalize_label(category["name"]): category["id"] for category in content["categories"]}
    labels = {category["id"]: category["name"] for category in content["categories"]}
    unknown = [name for name in classes or () if normalize_label(name) not in ids]
    if unknown:
        raise EvaluationError(f"The data has no category {unknown[0]!r}. Its categories: {', '.join(labels.values())}.")
    return labels, [ids[normalize_label(name)] for name in classes] if classes else list(labels)


def predict(
    predictor: Predictor, images: Mapping[int, Path], selection: Selection
) -> tuple[dict[int, Sequence[Prediction]], list[dict[str, str]]]:
    """Return predictions by image id, and the images that failed. Raises NoPredictionsError if none succeeded."""
    found: dict[int, Sequence[Prediction]] = {}
    failed = []
    ids, paths = list(images), list(images.values())
    for index, predictions in predict_all(predictor, paths, selection.on_progress):
        if isinstance(predictions, str):
            failed.append({"file": str(paths[index]), "error": predictions})
        else:
            found[ids[index]] = predictions
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
