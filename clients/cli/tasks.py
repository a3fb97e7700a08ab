"""`foursight classify`, `localize`, `detect`, `segment` and `analyze`."""

from typing import Annotated, Any, Literal

import typer

from foursight.clients.cli.common import Classes, Common, MaskFormat, MaxDetections, ScoreThreshold, TopK, with_common


@with_common
def classify(
    top_k: TopK = None, score_threshold: ScoreThreshold = None, classes: Classes = None, *, common: Common
) -> None:
    """Say what is in photos: ImageNet's labels, best first."""
    _answer("classify", common, top_k=top_k, score_threshold=score_threshold, classes=classes)


@with_common
def localize(top_k: TopK = None, *, common: Common) -> None:
    """Find the one main object of each photo: its label and box."""
    _answer("localize", common, top_k=top_k)


@with_common
def detect(
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    *,
    common: Common,
) -> None:
    """Find every object: label and box."""
    _answer("detect", common, score_threshold=score_threshold, max_detections=max_detections, classes=classes)


@with_common
def segment(
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    mask_format: MaskFormat = None,
    *,
    common: Common,
) -> None:
    """Find every object: label, box and outline."""
    options = {"score_threshold": score_threshold, "max_detections": max_detections, "classes": classes}
    _answer("segment", common, **options, mask_format=mask_format)


@with_common
def analyze(
    tasks: Annotated[str | None, typer.Option(help="Which tasks, comma-separated; all by default.")] = None,
    then: Annotated[Literal["classify"] | None, typer.Option(help="Classify each object found, too.")] = None,
    top_k: TopK = None,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    classes: Classes = None,
    mask_format: MaskFormat = None,
    *,
    common: Common,
) -> None:
    """Answer several tasks with one upload of each photo; an option goes to the tasks that know it."""
    options = {"score_threshold": score_threshold, "max_detections": max_detections, "classes": classes}
    _answer("analyze", common, tasks=tasks, then=then, top_k=top_k, **options, mask_format=mask_format)


def _answer(task: str, common: Common, **options: Any) -> None:
    # All that answering takes is imported for those who ask, and not for --help.
    from foursight.clients.cli.answering import answer  # noqa: PLC0415

    raise typer.Exit(answer(task, {name: value for name, value in options.items() if value is not None}, common))
