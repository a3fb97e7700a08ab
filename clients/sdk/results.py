"""What a client gets back: the wire's answers with masks as arrays, drawing, and the formats of other libraries.

A result dumps to the very JSON that the server sends: `result.model_dump_json(exclude_none=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, PrivateAttr

from foursight import schema
from foursight.clients.sdk.errors import Refused, UnreadableImage, refused
from foursight.clients.sdk.images import ImageInput, Photo, load, open_photo
from foursight.schema import Box, ImageSize, Polygons, Rle, Wire, polygons, rle

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv


class Prediction(Wire):
    """One thing that a task found. `label`, `score` (0..1) and, where the task gives them, `box` and `mask`."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    label: str
    class_id: int
    score: float
    wnid: str | None = None
    box: Box | None = None
    encoded_mask: Rle | Polygons | None = Field(None, alias="mask")
    classification: list[Prediction] | None = None

    _size: tuple[int, int] = PrivateAttr((0, 0))

    @cached_property
    def mask(self) -> rle.Mask | None:
        """The object's pixels, bool [H, W] in the size of the upright photo; decoded when first asked for.

        None for tasks without masks. Raises ValueError where the mask's runs do not fit its size.
        """
        if isinstance(self.encoded_mask, Rle):
            return rle.decode(self.encoded_mask)
        return None if self.encoded_mask is None else polygons.fill(self.encoded_mask, *self._size)

    def to_wire(self) -> schema.Prediction:
        """The same as the wire's type, as drawing takes it; what `classification` says is left out."""
        return schema.Prediction.model_construct(
            label=self.label,
            class_id=self.class_id,
            score=self.score,
            wnid=self.wnid,
            box=self.box,
            mask=self.encoded_mask,
        )


class Result(Wire):
    """A task's answer for one photo: `predictions`, best first; `image` is the size of the upright photo."""

    model: str
    image: ImageSize
    predictions: list[Prediction]

    _photo: Photo | None = PrivateAttr(None)
    _request_id: str | None = PrivateAttr(None)

    def model_post_init(self, _: Any, /) -> None:
        """Polygons do not say how large the photo is."""
        for prediction in self.predictions:
            prediction._size = (self.image.height, self.image.width)

    @property
    def request_id(self) -> str | None:
        """What the server's log calls the request."""
        return self._request_id

    def draw(self, image: ImageInput | None = None) -> Image.Image:
        """The photo with the predictions drawn on it, mode RGB, as the server would draw it.

        The result remembers the photo it is of: its path, or what was handed over in memory. A result of a `..._many`
        remembers a path only, so that tens of thousands of them can be kept; for others, give the `image`.

        Raises ValueError without a photo, or for one of another size, and UnreadableImage.
        """
        return _draw(self.predictions, self.image, self._photo if image is None else _photo_of(image))

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Objects as entries of a COCO results file: a dict for each prediction with a box.

        `bbox` is [x, y, width, height] in pixels; `segmentation` is there where there are masks.
        """
        return [_to_coco(prediction, image_id) for prediction in self.predictions if prediction.box is not None]

    def to_supervision(self) -> sv.Detections:
        """Objects as supervision's Detections: `xyxy`, `confidence`, `class_id`, `mask`, and data `class_name`.

        Needs `pip install 'foursight[supervision]'`.
        """
        with _extra("supervision"):
            import supervision as sv  # noqa: PLC0415

        found = [prediction for prediction in self.predictions if prediction.box is not None]
        masks = [prediction.mask for prediction in found if prediction.mask is not None]
        return sv.Detections(
            xyxy=np.array([prediction.box for prediction in found], dtype=np.float32).reshape(-1, 4),
            mask=np.stack(masks) if masks else None,
            confidence=np.array([prediction.score for prediction in found], dtype=np.float32),
            class_id=np.array([prediction.class_id for prediction in found], dtype=int),
            data={"class_name": np.array([prediction.label for prediction in found], dtype=np.str_)},
        )

    def to_pandas(self) -> pd.DataFrame:
        """A row for each prediction: label, class_id, score, and x1, y1, x2, y2 in pixels where there are boxes.

        Needs `pip install 'foursight[pandas]'`.
        """
        with _extra("pandas"):
            import pandas as pd  # noqa: PLC0415

        rows = [
            {"label": prediction.label, "class_id": prediction.class_id, "score": prediction.score}
            | dict(zip(("x1", "y1", "x2", "y2"), prediction.box or (), strict=False))
            for prediction in self.predictions
        ]
        return pd.DataFrame(rows, columns=None if rows else ["label", "class_id", "score"])


class Analysis(Wire):
    """Several tasks' answers for one photo: `analysis["detect"]` is that task's Result.

    `tasks` has, by the task's name, its result, or the failure of a task that could not answer. `then` is the failure
    of `then="classify"`, where the objects were found but could not be classified.
    """

    image: ImageSize
    tasks: dict[str, Result | schema.Failure]
    then: schema.Failure | None = None

    _photo: Photo | None = PrivateAttr(None)
    _request_id: str | None = PrivateAttr(None)

    def __getitem__(self, task: str) -> Result:
        """A task's result. Raises KeyError for a task that was not asked, and Refused for one that failed."""
        found = self.tasks[task]
        if isinstance(found, schema.Failure):
            raise refused(found.error, self._request_id)
        return found

    @property
    def failed(self) -> dict[str, Refused]:
        """The tasks that failed, `then` among them, and why."""
        parts = self.tasks | {"then": self.then}
        return {
            task: refused(found.error, self._request_id)
            for task, found in parts.items()
            if isinstance(found, schema.Failure)
        }

    @property
    def request_id(self) -> str | None:
        """What the server's log calls the request."""
        return self._request_id

    def draw(self, image: ImageInput | None = None) -> Image.Image:
        """The photo with the objects of the task that says most of them, and the labels of the whole photo.

        As Result.draw.
        """
        done = {task: found for task, found in self.tasks.items() if isinstance(found, Result)}
        objects = next((done[task] for task in ("segment", "detect", "localize") if task in done), None)
        predictions = [
            prediction for found in (objects, done.get("classify")) if found for prediction in found.predictions
        ]
        return _draw(predictions, self.image, self._photo if image is None else _photo_of(image))


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Around the import of a package that is an extra: without it, the error says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install 'foursight[{name}]'"
        raise ModuleNotFoundError(message, name=error.name) from None


def _photo_of(image: ImageInput) -> Photo:
    return load(image).photo


def _draw(predictions: list[Prediction], size: ImageSize, photo: Photo | None) -> Image.Image:
    from foursight.drawing.draw import draw  # noqa: PLC0415

    if photo is None:
        raise ValueError("the result does not keep its photo: give it, as in result.draw(photo)")
    picture = open_photo(photo)
    if picture.size != (size.width, size.height):
        raise UnreadableImage(
            f"The photo has {picture.width} x {picture.height} pixels, the answer is of {size.width} x {size.height}: "
            "it is another photo, or it has changed."
        )
    return draw(picture, [prediction.to_wire() for prediction in predictions])


def _to_coco(prediction: Prediction, image_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = prediction.box or (0, 0, 0, 0)
    entry = {
        "image_id": image_id,
        "category_id": prediction.class_id,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "score": prediction.score,
    }
    if isinstance(prediction.encoded_mask, Rle):
        entry["segmentation"] = prediction.encoded_mask.model_dump(mode="json")
    elif prediction.encoded_mask is not None:
        entry["segmentation"] = prediction.encoded_mask
    return entry
