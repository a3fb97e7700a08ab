"""From a task's predictions to a response: JSON, or the photo with the predictions drawn on it."""

from collections.abc import Sequence
from io import BytesIO
from typing import Literal

from PIL import Image
from starlette.responses import Response

from foursight.drawing.draw import draw
from foursight.models.results import Predictions
from foursight.schema import Answer, Failure, ImageSize, Polygons, Prediction, Rle
from foursight.serving import masks
from foursight.serving.errors import MEDIA_TYPE, STATUS, ApiError, problem

Format = Literal["application/json", "image/jpeg", "image/png"]
FORMATS: tuple[Format, ...] = ("application/json", "image/jpeg", "image/png")


def negotiate(accept: str, offered: Sequence[Format] = FORMATS) -> Format:
    """The format of those offered that an Accept header prefers (RFC 9110, section 12.5.1); the first if it is all one.

    Raises ApiError (not_acceptable).
    """
    best: tuple[float, Format] | None = None
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    for candidate in offered:
        # The most specific range that matches decides.
        quality = max(
            ((specific, q) for pattern, q in ranges if (specific := _specificity(pattern, candidate))), default=(0, 0.0)
        )[1]
        if not ranges:
            quality = 1.0
        if quality > 0 and (best is None or quality > best[0]):
            best = (quality, candidate)
    if best is None:
        raise ApiError("not_acceptable", f"Accept: {accept} leaves no format.", f"There is {', '.join(offered)}.")
    return best[1]


def to_answer(model: str, size: tuple[int, int], found: Predictions, mask_format: str) -> Answer:
    """The wire form of predictions for a photo of `size` (width, height)."""
    width, height = size
    boxes = None if found.boxes is None else found.boxes.tolist()
    predictions = []
    for index, (label, class_id, score) in enumerate(
        zip(found.labels, found.class_ids.tolist(), found.scores.tolist(), strict=True)
    ):
        outline: Rle | Polygons | None = None
        if found.masks is not None:
            mask = found.masks[index]
            outline = masks.to_polygons(mask) if mask_format == "polygon" else masks.to_rle(mask, height, width)
        predictions.append(
            Prediction.model_construct(
                label=label,
                class_id=class_id,
                score=round(score, 5),
                wnid=found.wnids[index] if found.wnids else None,
                box=tuple(round(side, 2) for side in boxes[index]) if boxes else None,
                mask=outline,
            )
        )
    return Answer.model_construct(
        model=model, image=ImageSize.model_construct(width=width, height=height), predictions=predictions
    )


def to_picture(image: Image.Image, answer: Answer, media_type: Format) -> bytes:
    """The photo with the answer drawn on it, as JPEG or PNG."""
    out = BytesIO()
    drawn = draw(image, answer.predictions)
    if media_type == "image/png":
        drawn.save(out, "PNG", compress_level=3)
    else:
        drawn.save(out, "JPEG", quality=90)
    return out.getvalue()


def to_json(result: Answer | Failure) -> bytes:
    """One photo's result as JSON."""
    return result.model_dump_json(exclude_none=True).encode()


def json_response(results: Sequence[bytes]) -> Response:
    """One result of `to_json` as itself, several as {"results": [...]}."""
    body = results[0] if len(results) == 1 else b'{"results":[%b]}' % b",".join(results)
    return Response(body, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """The problem details of a error."""
    body = problem(error.code, error.detail, error.hint)
    return Response(body.model_dump_json(), STATUS[error.code], error.headers, MEDIA_TYPE)


def failure(error: ApiError) -> Failure:
    """A error in the place of one photo's answer."""
    return Failure(error=problem(error.code, error.detail, error.hint))


def _media_range(part: str) -> tuple[str, float]:
    pattern, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return pattern, float(quality)
    except ValueError:
        return pattern, 0.0


def _specificity(pattern: str, candidate: str) -> int:
    if pattern == candidate:
        return 3
    if pattern == candidate.split("/", maxsplit=1)[0] + "/*":
        return 2
    return 1 if pattern == "*/*" else 0
