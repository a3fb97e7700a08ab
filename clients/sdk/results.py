"""The results of a client: answers with masks as arrays, drawing, and conversion to other libraries' formats.

`result.model_dump_json(exclude_none=True)` is the JSON that the server sent.
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
from foursight.clients.sdk.errors import ApiError, UnreadableImage, to_api_error
from foursight.clients.sdk.images import ImageInput, Original, load, open_original
from foursight.schema import Box, ImageSize, Polygons, Rle, Wire, polygons, rle
from foursight.schema.tasks import TASKS, Finds

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv


class Prediction(Wire):
    """One label or object: `label`, `score` (0 to 1) and, depending on the task, `box` and `mask`."""

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
        """The object's pixels, bool [H, W] in the size of the upright image. Decoded on first access.

        None for tasks without masks. Raises ValueError if the mask's runs do not add up to its size.
        """
        if isinstance(self.encoded_mask, Rle):
            return rle.decode(self.encoded_mask)
        return None if self.encoded_mask is None else polygons.fill(self.encoded_mask, *self._size)

    def to_wire(self) -> schema.Prediction:
        """Return the prediction as drawing takes it, without `classification`."""
        return schema.Prediction.model_construct(
            label=self.label,
            class_id=self.class_id,
            score=self.score,
            wnid=self.wnid,
            box=self.box,
            mask=self.encoded_mask,
        )


class Result(Wire):
    """A task's answer for one image: `predictions`, best first, and the size of the upright `image`."""

    model: str
    image: ImageSize
    predictions: list[Prediction]

    _original: Original | None = PrivateAttr(None)
    _request_id: str | None = PrivateAttr(None)

    def model_post_init(self, _: Any, /) -> None:
        """Give predictions the size of the image, which polygons do not contain."""
        for prediction in self.predictions:
            prediction._size = (self.image.height, self.image.width)

    @property
    def request_id(self) -> str | None:
        """The id under which the server logs the request."""
        return self._request_id

    def draw(self, image: ImageInput | None = None) -> Image.Image:
        """Return the image, mode RGB, with the predictions drawn on it as the server draws them.

        A result keeps a reference to its image: the path, or the object in memory. Results of a `..._many` method keep
        only paths, to save memory; pass other images again as `image`.

        Raises ValueError if there is no image, and UnreadableImage if it cannot be opened or has another size.
        """
        return _draw(self.predictions, self.image, self._original if image is None else load(image).original)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return objects as entries of a COCO results file: one dict per prediction with a box.

        `bbox` is [x, y, width, height] in pixels. `segmentation` is present if there are masks.
        """
        return [_to_coco(prediction, image_id) for prediction in self.predictions if prediction.box is not None]

    def to_supervision(self) -> sv.Detections:
        """Return objects as supervision's Detections: `xyxy`, `confidence`, `class_id`, `mask`, and data `class_name`.

        Needs the package supervision.
        """
        with _optional("supervision"):
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
        """Return one row per prediction: label, class_id, score, and with boxes x1, y1, x2, y2 in pixels.

        Needs the package pandas.
        """
        with _optional("pandas"):
            import pandas as pd  # noqa: PLC0415

        rows = [
            {"label": prediction.label, "class_id": prediction.class_id, "score": prediction.score}
            | dict(zip(("x1", "y1", "x2", "y2"), prediction.box or (), strict=False))
            for prediction in self.predictions
        ]
        return pd.DataFrame(rows, columns=None if rows else ["label", "class_id", "score"])


class Analysis(Wire):
    """Several tasks' answers for one image: `analysis["detect"]` is that task's Result.

    `tasks` maps each task to its result or its failure. `then` is the failure of `then="classify"`, if objects were
    found but could not be classified.
    """

    image: ImageSize
    tasks: dict[str, Result | schema.Failure]
    then: schema.Failure | None = None

    _original: Original | None = PrivateAttr(None)
    _request_id: str | None = PrivateAttr(None)

    def __getitem__(self, task: str) -> Result:
        """Return a task's result. Raises KeyError for a task that was not requested, ApiError for one that failed."""
        found = self.tasks[task]
        if isinstance(found, schema.Failure):
            raise to_api_error(found.error, self._request_id)
        return found

    @property
    def failed(self) -> dict[str, ApiError]:
        """The errors of the tasks that failed, including `then`."""
        parts = self.tasks | {"then": self.then}
        return {
            task: to_api_error(found.error, self._request_id)
            for task, found in parts.items()
            if isinstance(found, schema.Failure)
        }

    @property
    def request_id(self) -> str | None:
        """The id under which the server logs the request."""
        return self._request_id

    def draw(self, image: ImageInput | None = None) -> Image.Image:
        """Return the image with the objects of the most detailed task and the image's labels drawn. See Result.draw."""
        done: dict[Finds, Result] = {}
        for task, found in self.tasks.items():
            if isinstance(found, Result) and task in TASKS:
                done.setdefault(TASKS[task].finds, found)
        objects = done.get("masks") or done.get("objects") or done.get("object")
        predictions = [
            prediction for found in (objects, done.get("labels")) if found for prediction in found.predictions
        ]
        return _draw(predictions, self.image, self._original if image is None else load(image).original)


@contextmanager
def _optional(package: str) -> Iterator[None]:
    """Say how to install an optional package if its import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install {package}"
        raise ModuleNotFoundError(message, name=error.name) from None


def _draw(predictions: list[Prediction], size: ImageSize, original: Original | None) -> Image.Image:
    from foursight.drawing.draw import draw  # noqa: PLC0415

    if original is None:
        raise ValueError("the result has no reference to its image: pass it, as in result.draw(image)")
    picture = open_original(original)
    if picture.size != (size.width, size.height):
        raise UnreadableImage(
            f"The image has {picture.width} x {picture.height} pixels, but the answer is for {size.width} x "
            f"{size.height}: this is another image, or the file has changed."
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
