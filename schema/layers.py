"""The layers of a network as a table, and the options of `GET /v1/models/NAME/layers`.

Pairs are [vertical, horizontal].
"""

from typing import Annotated

from pydantic import BeforeValidator, Field

from foursight.schema.base import Wire
from foursight.schema.options import Options

MIN_SIDE, MAX_SIDE = 32, 1344


class Layer(Wire):
    """One operation of a network. Sizes are [C, H, W], or [features] where there is no height and width."""

    name: str = Field(description="The module that the layer belongs to, as in the names of its parameters.")
    call: int = Field(description="Which call of the module this is, if it is called more than once.")
    kind: str
    input: list[int]
    output: list[int] = Field(
        description="By the formula floor((W - K + P) / S) + 1, where P is the padding of both sides."
    )
    observed: list[int] = Field(description="Size of the output when the network ran.")
    times: int = Field(description="Maximum number of regions that the layer runs for; 1: once for the image.")
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    padding: tuple[int, int, int, int] | None = Field(description="[top, bottom, left, right].")
    dilation: tuple[int, int] | None
    groups: int | None
    output_padding: tuple[int, int] | None = Field(description="Of a transposed convolution.")
    activation: str | None = Field(description="The activation that follows.")
    dropout: float | None = Field(description="Probability.")
    receptive_field: tuple[int, int] | None = Field(description="Pixels of the input that one cell sees.")
    field_stride: tuple[float, float] | None = Field(
        description="Pixels between the receptive fields of neighbouring cells."
    )
    field_centre: tuple[float, float] | None = Field(
        description="Centre of the first cell's receptive field, in pixels from the input's upper left corner."
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
    unused_parameters: int = Field(description="Parameters of layers that this task does not use.")
    multiply_adds: int = Field(description="Maximum for one image.")
    region_multiply_adds: int = Field(description="The part of them that is spent on regions.")


def parse_size(text: str) -> tuple[int, int]:
    """Parse "224" (a square) or "WIDTHxHEIGHT" to (height, width) in pixels. Raises ValueError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise ValueError(f"{text!r} is not a size: give one side, as in 224, or WIDTHxHEIGHT, as in 640x480")
    width, height = int(sides[0]), int(sides[-1])
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
        raise ValueError(f"the sides of {text!r} must be {MIN_SIDE} to {MAX_SIDE} pixels")
    return height, width


class LayersOptions(Options):
    """Options of the table of layers."""

    size: Annotated[tuple[int, int] | None, BeforeValidator(parse_size)] = Field(
        None,
        description="Size of the network's input in pixels: one side, as in 224, or WIDTHxHEIGHT, as in 640x480; sides "
        f"of {MIN_SIDE} to {MAX_SIDE}. The default is the size that the task uses.",
        json_schema_extra={"synonyms": ["image_size", "imgsz", "input_size"]},
    )
