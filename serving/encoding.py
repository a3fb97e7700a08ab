"""From a task's predictions to the wire answer: JSON, or the image with the predictions drawn on it.

Knows no web framework: the CLI encodes local predictions the same way.
"""

from io import BytesIO
from typing import Literal

from PIL import Image

from foursight.drawing.draw import draw
from foursight.models.results import Predictions
from foursight.schema import Answer, Failure, ImageSize, Polygons, Prediction, Rle
from foursight.serving import masks

# The last one is chosen by the path, not by the Accept header; see serving/huggingface.py.
Format = Literal["application/json", "image/jpeg", "image/png", "huggingface"]


def to_answer(model: str, size: tuple[int, int], predictions: Predictions, mask_format: str) -> Answer:
    """Return the wire form of predictions for an image of `size` (width, height).

    `mask_format` is rle, polygon or none.
    """
    width, height = size
    boxes = None if predictions.boxes is None else predictions.boxes.tolist()
    answered = []
    for index, (label, class_id, score) in enumerate(
        zip(predictions.labels, predictions.class_ids.tolist(), predictions.scores.tolist(), strict=True)
    ):
        outline: Rle | Polygons | None = None
        if predictions.masks is not None:
            mask = predictions.masks[index]
            outline = masks.to_polygons(mask) if mask_format == "polygon" else masks.to_rle(mask, height, width)
        # model_construct: the values are valid by construction, and validation takes longer than the rest.
        answered.append(
            Prediction.model_construct(
                label=label,
                class_id=class_id,
                score=round(score, 5),
                wnid=predictions.wnids[index] if predictions.wnids else None,
                box=tuple(round(side, 2) for side in boxes[index]) if boxes else None,
                mask=outline,
            )
        )
    return Answer.model_construct(
        model=model, image=ImageSize.model_construct(width=width, height=height), predictions=answered
    )


def to_picture(image: Image.Image, answer: Answer, media_type: Format) -> bytes:
    """Return the image with the answer drawn on it, as JPEG or PNG."""
    out = BytesIO()
    drawn = draw(image, answer.predictions)
    if media_type == "image/png":
        drawn.save(out, "PNG", compress_level=3)
    else:
        drawn.save(out, "JPEG", quality=90)
    return out.getvalue()


def to_json(result: Answer | Failure) -> bytes:
    """Return one image's result as JSON."""
    return result.model_dump_json(exclude_none=True).encode()
