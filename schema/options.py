"""The options of each task, declared once: query parameters over HTTP, keyword arguments in Python, CLI options.

Descriptions state units and ranges. The defaults are the fields' own.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from foursight.schema.names import split_names


class Options(BaseModel):
    """Base of all options: immutable; unknown names are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def synonyms(cls) -> dict[str, str]:
        """Return other libraries' names for these options, each with ours: {"conf": "score_threshold", ...}.

        They are not accepted: error messages use them to suggest the right name.
        """
        ours: dict[str, str] = {}
        for name, field in cls.model_fields.items():
            extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            ours |= dict.fromkeys(extra.get("synonyms", ()), name)
        return ours

    @classmethod
    def is_list(cls, name: str) -> bool:
        """Return whether an option is a list of names, which may be given in several parts."""
        field = cls.model_fields.get(name)
        return field is not None and any(getattr(one, "func", None) is split_commas for one in field.metadata)


def split_commas(value: object) -> object:
    """Split comma-separated text into names; a value of another type is returned unchanged."""
    return split_names(value) if isinstance(value, str) else value


def _require_names(names: list[str] | None) -> list[str] | None:
    if names is not None and not all(names):
        raise ValueError("a class name must not be empty")
    return names


Classes = Annotated[
    list[str] | None,
    BeforeValidator(split_commas),
    AfterValidator(_require_names),
    Field(
        description='Labels to keep, comma-separated; "in quotes" if one has a comma. All others are left out.',
        json_schema_extra={"synonyms": ["class", "filter", "label", "labels"]},
    ),
]


class ModelOptions(Options):
    """Options of a task that can serve fine-tuned models."""

    model: str | None = Field(
        None,
        description="Name of a fine-tuned model. Without it, the built-in model answers.",
        json_schema_extra={"synonyms": ["model_id", "model_name", "weights"]},
    )


_TOP_K: dict[str, Any] = {"synonyms": ["k", "n", "num_labels", "top", "topk"]}
_SCORE_THRESHOLD: dict[str, Any] = {
    "synonyms": ["conf", "confidence", "confidence_threshold", "min_confidence", "min_score", "score", "threshold"]
}


class ClassifyOptions(ModelOptions):
    """Options of `classify`."""

    top_k: int = Field(
        5, ge=1, le=1000, description="Number of labels, best first: 1 to 1000.", json_schema_extra=_TOP_K
    )
    score_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Lowest score of a label: 0 to 1. Labels below it are left out.",
        json_schema_extra=_SCORE_THRESHOLD,
    )
    classes: Classes = None


class LocalizeOptions(ModelOptions):
    """Options of `localize`."""

    top_k: int = Field(
        1,
        ge=1,
        le=1000,
        description="Number of labels for the one box, best first: 1 to 1000.",
        json_schema_extra=_TOP_K,
    )


class DetectOptions(ModelOptions):
    """Options of `detect`."""

    # The networks themselves discard scores below 0.05.
    score_threshold: float = Field(
        0.5,
        ge=0.05,
        le=1,
        description="Lowest score of an object: 0.05 to 1. Objects below it are left out.",
        json_schema_extra=_SCORE_THRESHOLD,
    )
    max_detections: int = Field(
        100,
        ge=1,
        le=100,
        description="Maximum number of objects, best first: 1 to 100.",
        json_schema_extra={"synonyms": ["limit", "max", "max_det", "max_dets", "max_objects", "max_results"]},
    )
    classes: Classes = None
    tiles: int = Field(
        1,
        ge=1,
        le=6,
        description="Also search overlapping tiles, this many along the longer side: 1 (no tiles) to 6. It finds small "
        "objects in large images, and takes longer.",
        json_schema_extra={"synonyms": ["sahi", "slice", "slices", "tile", "tiling"]},
    )


class SegmentOptions(DetectOptions):
    """Options of `segment`."""

    mask_format: Literal["rle", "polygon", "none"] = Field(
        "rle",
        description="Encoding of masks: `rle` (COCO compressed run-length encoding), `polygon` (outlines [x1, y1, x2, "
        "y2, ...] in pixels, holes filled), or `none` (no masks).",
        json_schema_extra={"synonyms": ["format", "mask", "mask_encoding", "masks", "masks_format"]},
    )
