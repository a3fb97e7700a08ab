"""Predictions in Label Studio's format: https://labelstud.io/guide/predictions. Sides are in percent of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foursight.schema import Rle

if TYPE_CHECKING:
    from foursight.clients.sdk.results import Prediction, Result


def prediction(result: Result, from_name: str, to_name: str) -> dict[str, Any]:
    """Return the prediction of one task. Raises ValueError for masks in RLE."""
    regions: list[dict[str, Any]] = []
    for number, one in enumerate(result.predictions):
        size = {"original_width": result.image.width, "original_height": result.image.height, "image_rotation": 0}
        for part, (kind, value) in enumerate(_shapes(one, result.image.width, result.image.height)):
            place = {} if kind == "choices" else size
            regions.append(
                {"id": f"{number}-{part}", "from_name": from_name, "to_name": to_name, "type": kind, **place}
                | {"value": value, "score": one.score}
            )
    scores = [one.score for one in result.predictions]
    return {
        "model_version": result.model,
        "score": sum(scores) / len(scores) if scores else 0.0,
        "result": regions,
    }


def _shapes(one: Prediction, width: int, height: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the shapes of an object, (type, value): one for each outline of its mask, else its box or its label."""
    if isinstance(one.encoded_mask, Rle):
        raise ValueError('Label Studio takes polygons: ask for masks with mask_format="polygon"')  # noqa: TRY004  # a choice of the request
    if one.encoded_mask is not None:
        return [
            ("polygonlabels", {"points": _points(outline, width, height), "closed": True, "polygonlabels": [one.label]})
            for outline in one.encoded_mask
        ]
    if one.box is None:
        return [("choices", {"choices": [one.label]})]
    x1, y1, x2, y2 = one.box
    place = {"x": 100 * x1 / width, "y": 100 * y1 / height}
    extent = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
    return [("rectanglelabels", place | extent | {"rotation": 0, "rectanglelabels": [one.label]})]


def _points(outline: list[float], width: int, height: int) -> list[list[float]]:
    return [[100 * x / width, 100 * y / height] for x, y in zip(outline[::2], outline[1::2], strict=True)]
