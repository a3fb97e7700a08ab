"""The options of the client's methods. Generated from schema/ by tools.generate_sdk_options; do not edit.

The server checks the values and fills in the defaults.
"""

from collections.abc import Iterable
from typing import Literal, TypedDict


class _ClientOptions(TypedDict, total=False):
    max_side: int | None
    """Longest side in pixels: larger images are shrunk before the upload. Boxes and masks refer to the original."""


class ClassifyOptions(_ClientOptions, total=False):
    """Options of `classify`."""

    model: str | None
    """Name of a fine-tuned model. Without it, the built-in model answers."""
    top_k: int | None
    """Number of labels, best first: 1 to 1000. Default: 5."""
    score_threshold: float | None
    """Lowest score of a label: 0 to 1. Labels below it are left out. Default: 0.0."""
    classes: Iterable[str] | str | None
    """Labels to keep, comma-separated; "in quotes" if one has a comma. All others are left out."""


class LocalizeOptions(_ClientOptions, total=False):
    """Options of `localize`."""

    model: str | None
    """Name of a fine-tuned model. Without it, the built-in model answers."""
    top_k: int | None
    """Number of labels for the one box, best first: 1 to 1000. Default: 1."""


class DetectOptions(_ClientOptions, total=False):
    """Options of `detect`."""

    model: str | None
    """Name of a fine-tuned model. Without it, the built-in model answers."""
    score_threshold: float | None
    """Lowest score of an object: 0.05 to 1. Objects below it are left out. Default: 0.5."""
    max_detections: int | None
    """Maximum number of objects, best first: 1 to 100. Default: 100."""
    classes: Iterable[str] | str | None
    """Labels to keep, comma-separated; "in quotes" if one has a comma. All others are left out."""
    tiles: int | None
    """Also search overlapping tiles, this many along the longer side: 1 (no tiles) to 6. It finds small objects
    in large images, and takes longer. Default: 1.
    """


class SegmentOptions(_ClientOptions, total=False):
    """Options of `segment`."""

    model: str | None
    """Name of a fine-tuned model. Without it, the built-in model answers."""
    score_threshold: float | None
    """Lowest score of an object: 0.05 to 1. Objects below it are left out. Default: 0.5."""
    max_detections: int | None
    """Maximum number of objects, best first: 1 to 100. Default: 100."""
    classes: Iterable[str] | str | None
    """Labels to keep, comma-separated; "in quotes" if one has a comma. All others are left out."""
    tiles: int | None
    """Also search overlapping tiles, this many along the longer side: 1 (no tiles) to 6. It finds small objects
    in large images, and takes longer. Default: 1.
    """
    mask_format: Literal["rle", "polygon", "none"] | None
    """Encoding of masks: `rle` (COCO compressed run-length encoding), `polygon` (outlines [x1, y1, x2, y2, ...]
    in pixels, holes filled), or `none` (no masks). Default: rle.
    """


class AnalyzeOptions(_ClientOptions, total=False):
    """Options of `analyze`."""

    tasks: Iterable[str] | str | None
    """Tasks to run, comma-separated: classify, localize, detect, segment. Without it, all that are served."""
    then: Literal["classify"] | None
    """`classify`: also classify each object found (up to 16 per task, best first; each box is enlarged by 10%
    on each side).
    """
    model: str | None
    """Passed on to classify, localize, detect, segment."""
    top_k: int | None
    """Passed on to classify, localize."""
    score_threshold: float | None
    """Passed on to classify, detect, segment."""
    classes: Iterable[str] | str | None
    """Passed on to classify, detect, segment."""
    max_detections: int | None
    """Passed on to detect, segment."""
    tiles: int | None
    """Passed on to detect, segment."""
    mask_format: Literal["rle", "polygon", "none"] | None
    """Passed on to segment."""
