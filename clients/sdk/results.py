"""The results of a client: answers with masks as arrays, drawing, and conversion to other libraries' formats.

`result.model_dump_json(exclude_none=True)` is the JSON that the server sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field, PrivateAttr

from foursight import schema
from foursight.clients.sdk import label_studio
from foursight.clients.sdk.errors import ApiError, UnreadableImage, to_api_error
from foursight.clients.sdk.images import ImageInput, Original, load, open_original
from foursight.schema import Box, ImageSize, Polygons, Rle, Wire, polygons, rle
from foursight.schema.tasks import TASKS, Finds

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

# Longest side in pixels of the picture in a notebook.
_NOTEBOOK_SIDE = 800


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

    def __iter__(self) -> Iterator[Prediction]:  # type: ignore[override]  # pydantic's yields the names of the fields
        """Iterate over the predictions, best first."""
        return iter(self.predictions)

    def __len__(self) -> int:
        """Return the number of predictions."""
        return len(self.predictions)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Prediction | list[Prediction]:
        """Return a prediction by its index, or several by a slice."""
        return self.predictions[index]

    def _repr_png_(self) -> bytes | None:
        """Return the drawn image for a notebook."""
        return _for_notebook(self)

    def draw(self, image: ImageInput | None = None) -> Image.Image:
        """Return the image, mode RGB, with the predictions drawn on it as the server draws them.

        A result keeps a reference to its image: the path, or the object in memory. Results of a `..._many` method keep
        only paths, to save memory; pass other images again as `image`.

        Raises ValueError if there is no image, and UnreadableImage if it cannot be opened or has another size.
        """
        return _draw(self.predictions, self.image, self._original if image is None else _reload(image))

    def to_coco(self, image_id: int, categories: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """Return objects as entries of a COCO results file: one dict per prediction with a box.

        `bbox` is [x, y, width, height] in pixels. `segmentation` is present if there are masks. `categories` maps
        labels to the listing's category ids; by default, the id is the prediction's `class_id`, which is COCO's own for
        the built-in model, and that of its data set for a fine-tuned one. Raises KeyError for a label without an id.
        """
        found = [prediction for prediction in self.predictions if prediction.box is not None]
        return [_to_coco(one, image_id, one.class_id if categories is None else categories[one.label]) for one in found]

    def to_label_studio(self, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
        """Return a prediction for Label Studio, to append to the `predictions` of a task.

        Objects become rectangles, or polygons if the masks are polygons; labels without a box become choices.
        `from_name` and `to_name` are those of the labelling configuration. Raises ValueError for masks in RLE.
        """
        return label_studio.prediction(self, from_name, to_name)

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return one array per field, in the order of the predictions.

        `label` str [N], `class_id` int64 [N], `score` float32 [N]; `box` float32 [N, 4], in pixels, if all have boxes;
        `mask` bool [N, H, W] if all have masks.
        """
        arrays: dict[str, NDArray[Any]] = {
            "label": np.array([one.label for one in self.predictions], dtype=np.str_),
            "class_id": np.array([one.class_id for one in self.predictions], dtype=np.int64),
            "score": np.array([one.score for one in self.predictions], dtype=np.float32),
        }
        if all(one.box is not None for one in self.predictions):
            arrays["box"] = np.array([one.box for one in self.predictions], dtype=np.float32).reshape(-1, 4)
        if all(one.encoded_mask is not None for one in self.predictions):
            masks = [one.mask for one in self.predictions]
            size = self.image.height, self.image.width
            arrays["mask"] = np.array(masks, dtype=np.bool_).reshape(-1, *size)
        return arrays

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
        """Return one row per prediction: label, class_id, score, and the box as x1, y1, x2, y2 in pixels, or NaN.

        Needs the package pandas.
        """
        with _optional("pandas"):
            import pandas as pd  # noqa: PLC0415

        no_box = (np.nan,) * 4
        rows = [(one.label, one.class_id, one.score, *(one.box or no_box)) for one in self.predictions]
        return pd.DataFrame(rows, columns=["label", "class_id", "score", "x1", "y1", "x2", "y2"])


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

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # pydantic's yields the names of the fields
        """Iterate over the names of the tasks."""
        return iter(self.tasks)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.tasks)

    def _repr_png_(self) -> bytes | None:
        """Return the drawn image for a notebook."""
        return _for_notebook(self)

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
        objects = next((done[kind] for kind in ("masks", "objects", "object") if kind in done), ())
        predictions = [*objects, *done.get("labels", ())]
        return _draw(predictions, self.image, self._original if image is None else _reload(image))


@contextmanager
def _optional(package: str) -> Iterator[None]:
    """Say how to install an optional package if its import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{error.name} is not installed: pip install {package}"
        raise ModuleNotFoundError(message, name=error.name) from None


def _reload(image: ImageInput) -> Original:
    try:
        return load(image).original
    except UnreadableImage as error:
        if isinstance(image, str | PathLike) and not Path(image).exists():
            message = f"{error.message} To write a picture: result.draw().save({os.fspath(image)!r})"
            raise UnreadableImage(message) from error
        raise


def _for_notebook(result: Result | Analysis) -> bytes | None:
    """Return the drawn image as a PNG of at most _NOTEBOOK_SIDE pixels; None if the result has no image."""
    if result._original is None:
        return None
    try:
        picture = result.draw()
    except UnreadableImage:
        return None
    picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
    out = BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


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


def _to_coco(prediction: Prediction, image_id: int, category_id: int) -> dict[str, Any]:
    x1, y1, x2, y2 = prediction.box or (0, 0, 0, 0)
    entry = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "score": prediction.score,
    }
    if isinstance(prediction.encoded_mask, Rle):
        entry["segmentation"] = prediction.encoded_mask.model_dump(mode="json")
    elif prediction.encoded_mask is not None:
        entry["segmentation"] = prediction.encoded_mask
    return entry
