"""Answers on the wire: predictions, with boxes and masks in pixels of the upright image."""

from typing import Annotated

from pydantic import Field

from foursight.schema.base import Wire
from foursight.schema.errors import Failure


class Rle(Wire):
    """A mask as COCO compressed run-length encoding, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="[height, width] of the image.")
    counts: str


Polygons = Annotated[
    list[list[float]], Field(description="COCO polygons: one outline each, [x1, y1, x2, y2, ...] in pixels.")
]
Box = Annotated[
    tuple[float, float, float, float],
    Field(description="[x1, y1, x2, y2] in pixels of the upright image, from its upper left corner."),
]


class Prediction(Wire):
    """One label, or one object."""

    label: str
    class_id: int = Field(
        description="ImageNet-1k index, or COCO category id for detection and segmentation. Of a fine-tuned model: the "
        "id in its data set, or the index of the label."
    )
    score: float = Field(description="Confidence: 0 to 1.")
    wnid: str | None = Field(None, description="WordNet id of an ImageNet label.")
    box: Box | None = None
    mask: Rle | Polygons | None = None
    classification: "list[Prediction] | None" = Field(
        None, description="ImageNet labels of this object alone, best first. Present with `then=classify`."
    )


class ImageSize(Wire):
    """Size in pixels of the upright image (EXIF orientation applied)."""

    width: int
    height: int


class Answer(Wire):
    """A task's answer for one image."""

    model: str
    image: ImageSize
    predictions: list[Prediction]


class Answers(Wire):
    """Answers for several images of one upload, in their order."""

    results: list[Answer | Failure]


class Analysis(Wire):
    """Several tasks' answers for one image, by task name. If one task fails, the others still answer."""

    image: ImageSize
    tasks: dict[str, Answer | Failure]
    then: Failure | None = Field(
        None, description="Present with `then=classify` if the objects found could not be classified."
    )
