"""What can be asked of each task, as keyword arguments. The server checks them, and knows their defaults.

`max_side` is the client's own: photos with a longer side, in pixels, are shrunk before the upload, and the answer is
brought back to the pixels of the original.
"""

from collections.abc import Sequence
from typing import Literal, TypedDict


class _Options(TypedDict, total=False):
    max_side: int | None
    model: str | None


class ClassifyOptions(_Options, total=False):
    """`top_k`: how many labels, best first. `score_threshold`: 0..1. `classes`: labels to keep."""

    top_k: int | None
    score_threshold: float | None
    classes: Sequence[str] | str | None


class LocalizeOptions(_Options, total=False):
    """`top_k`: how many labels for the one box, best first."""

    top_k: int | None


class DetectOptions(_Options, total=False):
    """`score_threshold`: 0.05..1. `max_detections`: at most 100. `classes`: labels to keep."""

    score_threshold: float | None
    max_detections: int | None
    classes: Sequence[str] | str | None


class SegmentOptions(DetectOptions, total=False):
    """Those of detection, and how masks travel: `rle`, `polygon` (no holes), or `none`."""

    mask_format: Literal["rle", "polygon", "none"] | None


class AnalyzeOptions(SegmentOptions, total=False):
    """`tasks`: which, all by default. `then="classify"`: what ImageNet's labels say of each object found.

    And the tasks' own options: each goes to the tasks that know it.
    """

    tasks: Sequence[str] | str | None
    then: Literal["classify"] | None
    top_k: int | None
