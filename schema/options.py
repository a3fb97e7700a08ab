"""What a request may ask of a task: the query parameters of its endpoint, and keyword arguments in Python."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _present(names: list[str] | None) -> list[str] | None:
    if names is not None and not all(names):
        raise ValueError("a class name is empty")
    return names


Classes = Annotated[
    list[str] | None,
    BeforeValidator(_split),
    AfterValidator(_present),
    Field(description="Comma-separated labels to keep; the rest is left out."),
]


MIN_SIDE, MAX_SIDE = 32, 1344


def parse_size(text: str) -> tuple[int, int]:
    """A network's input as (height, width) from "224" (a square) or "WIDTHxHEIGHT". Raises ValueError."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise ValueError(f"{text!r} is no size: give one side, as 224, or WIDTHxHEIGHT, as 640x480")
    width, height = int(sides[0]), int(sides[-1])
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (width, height)):
        raise ValueError(f"the sides of {text!r} have to lie in {MIN_SIDE}..{MAX_SIDE}")
    return height, width


class Options(BaseModel):
    """Base: whatever a task does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelOptions(Options):
    """Options of a task that serves fine-tuned models besides its own."""

    model: str | None = Field(None, description="Name of a fine-tuned model, as GET /v1/models lists it.")


class ClassifyOptions(ModelOptions):
    """Options of classification."""

    top_k: int = Field(5, ge=1, le=1000, description="How many labels to give, best first.")
    score_threshold: float = Field(0.0, ge=0, le=1, description="Labels with a lower score are left out.")
    classes: Classes = None


class LocalizeOptions(ModelOptions):
    """Options of localization."""

    top_k: int = Field(1, ge=1, le=1000, description="How many labels to give for the one box, best first.")


class DetectOptions(ModelOptions):
    """Options of detection. Below a score of 0.05 nothing leaves the network."""

    score_threshold: float = Field(0.5, ge=0.05, le=1, description="Objects with a lower score are left out.")
    max_detections: int = Field(100, ge=1, le=100, description="At most so many objects, best first.")
    classes: Classes = None


class SegmentOptions(DetectOptions):
    """Options of segmentation."""

    mask_format: Literal["rle", "polygon", "none"] = Field(
        "rle", description="COCO compressed run-length encoding, polygons [x1, y1, x2, y2, ...], or no masks."
    )


class LayersOptions(Options):
    """Options of the table of a network's layers."""

    size: Annotated[tuple[int, int] | None, BeforeValidator(parse_size)] = Field(
        None,
        description=f"The network's input in pixels: one side, as 224, or WIDTHxHEIGHT, as 640x480; sides in "
        f"{MIN_SIDE}..{MAX_SIDE}. Without it, the size that the task works at.",
    )
