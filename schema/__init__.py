"""The wire types: what goes over HTTP, as both the server and its clients see it. Needs pydantic only."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Base of all wire types: immutable, and tolerant of fields that a newer server may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Rle(Wire):
    """A mask as COCO compressed run-length encoding, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="[height, width] of the photo.")
    counts: str


Polygons = Annotated[
    list[list[float]], Field(description="COCO polygons: one outline each, [x1, y1, x2, y2, ...] in pixels.")
]
Box = Annotated[
    tuple[float, float, float, float],
    Field(description="[x1, y1, x2, y2] in pixels of the upright photo, origin in its upper left corner."),
]


class Prediction(Wire):
    """One thing that a task found."""

    label: str
    class_id: int = Field(
        description="ImageNet-1k index, COCO category id for detection and segmentation, or a fine-tuned model's index."
    )
    score: float = Field(description="Confidence, 0..1.")
    wnid: str | None = Field(None, description="WordNet id of an ImageNet label.")
    box: Box | None = None
    mask: Rle | Polygons | None = None
    classification: "list[Prediction] | None" = Field(
        None, description="What ImageNet's labels say of this object alone, cut out by its box: `then=classify`."
    )


class ImageSize(Wire):
    """Size in pixels of the upright photo (EXIF orientation applied)."""

    width: int
    height: int


class Answer(Wire):
    """A task's answer for one photo."""

    model: str
    image: ImageSize
    predictions: list[Prediction]


class Problem(Wire):
    """An error, as RFC 9457 "problem details" (application/problem+json)."""

    type: str = Field(description="A relative reference that identifies the kind of problem.")
    title: str
    status: int
    code: str = Field(description="Stable and machine-readable.")
    detail: str = Field(description="What was wrong.")
    hint: str = Field(description="What would be right.")


class Failure(Wire):
    """One photo of several that could not be answered."""

    error: Problem


class Answers(Wire):
    """Answers for several photos of one upload, in their order."""

    results: list[Answer | Failure]


class Analysis(Wire):
    """Several tasks' answers for one photo, by the task's name; one task's failure leaves the others their answers."""

    image: ImageSize
    tasks: dict[str, Answer | Failure]
    then: Failure | None = Field(None, description="Why the objects found could not be classified: `then=classify`.")


class ModelCard(Wire):
    """What one task's model is, as `GET /v1/models` lists it."""

    task: str
    name: str
    finetuned: bool = Field(
        False, description="Whether it is chosen by `?model=name`; parameters and bytes are then those of its own."
    )
    profile: str
    labels: list[str]
    input_size: str = Field(description="Side lengths in pixels that the network works at.")
    max_batch: int
    replicas: int
    device: str
    dtype: str
    parameters: int
    bytes: int


class ModelCards(Wire):
    """The answer of `GET /v1/models`."""

    models: list[ModelCard]


class Layer(Wire):
    """One operation of a network. Pairs are [vertical, horizontal]; sizes [C, H, W], or [features] without places."""

    name: str = Field(description="The module that it belongs to, as its parameters are named.")
    call: int = Field(description="The module's how-manieth use, where it serves several times.")
    kind: str
    input: list[int]
    output: list[int] = Field(description="By formula: floor((W - K + P) / S) + 1 with the padding of both ends.")
    observed: list[int] = Field(description="Of the tensor that came out when the network ran.")
    times: int = Field(description="For how many regions it runs at most; 1: once for the photo.")
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    padding: tuple[int, int, int, int] | None = Field(description="[top, bottom, left, right].")
    dilation: tuple[int, int] | None
    groups: int | None
    output_padding: tuple[int, int] | None = Field(description="Of a transposed convolution.")
    activation: str | None = Field(description="The one that follows.")
    dropout: float | None = Field(description="Probability.")
    receptive_field: tuple[int, int] | None = Field(description="Pixels of the input that one cell sees.")
    field_stride: tuple[float, float] | None = Field(description="Pixels between the fields of neighbouring cells.")
    field_centre: tuple[float, float] | None = Field(
        description="Of the first cell's field, in pixels from the input's upper left corner."
    )
    parameters: int
    multiply_adds: int = Field(description="For one region.")


class Stage(Wire):
    """Layers that belong together."""

    name: str
    layers: list[Layer]


class LayerTable(Wire):
    """The answer of `GET /v1/models/NAME/layers`."""

    model: str
    size: tuple[int, int] = Field(description="[height, width] of the network's input.")
    stages: list[Stage]
    parameters: int
    unused_parameters: int = Field(description="Of layers that this task does not use.")
    multiply_adds: int = Field(description="Of one photo, at most.")
    region_multiply_adds: int = Field(description="Those of them that are spent on regions.")
