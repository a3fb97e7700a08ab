"""Transfer learning for detection and segment, on COCO's format.

    photos -> shipped network, frozen (once, kept on disk) -> proposals -> names' head -> labels of one's own
    photos -> frozen backbone -> pyramid, proposals, box, name and mask heads, all of them trained

Boxes and masks are the same for all names, so what is new with new labels is little: the first way needs a few dozen
photos and takes minutes. The second is how the shipped network itself was made (models/training/heads.py).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from foursight.models import catalogue
from foursight.models.evaluation import measure
from foursight.models.evaluation.measure import Measured
from foursight.models.finetuned import detector
from foursight.models.finetuned.detector import LabelHead, Own, SharedWeights
from foursight.models.networks import rcnn_tiny
from foursight.models.tasks import detect, instances, segment
from foursight.models.tasks.instances import Detector, Rcnn
from foursight.models.training import dataset, heads, loop, names_head, proposals
from foursight.models.training.data import Photo
from foursight.models.training.loop import Progress, Report
from foursight.models.training.names_head import Results
from foursight.models.training.objects import ObjectSet, Split
from foursight.schema.options import DetectOptions, SegmentOptions

Task = Literal["detect", "segment"]
# Below this nothing leaves the network; AP is the area under all thresholds.
LOWEST_SCORE = 0.05
HEADS_DEFAULTS = {"epochs": 20, "lr": 1e-3, "batch": 2}


class Options(BaseModel):
    """How to train; the defaults are for a names' head on some hundred photos."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[
        Literal["all", "backbone"],
        Field(description="What stays as it is: the shipped network, or its backbone alone."),
    ] = "all"
    heads: Annotated[Literal["shipped", "fresh"], Field(description="What heads that are trained start from.")] = (
        "shipped"
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Photos of a step.")] = 8
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[
        Split, Field(description="How a fifth is held back: by the photos' content, or by their names.")
    ] = "content"
    cache: Annotated[bool, Field(description="Keep what the frozen network gives.")] = True
    processes: Annotated[int, Field(ge=1, le=64, description="That train heads together, each on one core.")] = 1

    @property
    def fresh(self) -> bool:
        """Whether the heads start from nothing."""
        return self.heads == "fresh"

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Those of training heads are others."""
        if given.get("heads") == "fresh":
            given = {"freeze": "backbone"} | given
        return (HEADS_DEFAULTS if given.get("freeze") == "backbone" else {}) | given

    @field_validator("freeze", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value not in ("all", "backbone"):
            raise ValueError(
                "all (the shipped network) or backbone (heads are trained); a backbone's stages stay frozen"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
        if self.freeze == "all" and (self.fresh or self.processes > 1):
            raise ValueError("--heads fresh and --processes are for --freeze backbone")
        if self.freeze == "backbone" and not self.cache:
            raise ValueError("--no-cache is for --freeze all: where heads are trained, nothing is kept")
        return self


@dataclass
class Outcome:
    """What was learnt, and how it came about: `tensors` and `own` are the model's, `starts` say where labels began.

    `measured` has pycocotools' figures by "box" and "mask". `seconds` are those of the features and of training.
    """

    task: Task
    own: Own
    other: bool
    shared: SharedWeights
    tensors: dict[str, Tensor]
    labels: tuple[str, ...]
    epochs: list[Any]
    best: int
    measured: dict[str, Measured]
    starts: list[str]
    interrupted: bool
    cached: bool
    seconds: dict[str, float]


def finetune(
    data: ObjectSet,
    task: Task,
    options: Options,
    device: torch.device,
    report: Report = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a detector or segmenter of `data.labels` over the shipped network.

    `work` is a folder for a checkpoint after each epoch; where it holds one of the same run, training goes on from
    there. KeyboardInterrupt after the first epoch ends the training and keeps the best so far; before, it is raised.

    Raises DataError (bad_data; checkpoint_mismatch for the checkpoint of another run).
    """
    if options.freeze == "backbone":
        return _finetune_heads(data, task, options, report, work)
    torch.manual_seed(options.seed)
    head = LabelHead(len(data.labels))
    starts = names_head.initialise(head, data.labels, rcnn_tiny.load(masks=False))
    head.to(device)
    # What is learnt from is what is served, on its engines.
    served = (segment if task == "segment" else detect).load("tiny", str(device))
    network, shared = served.network, cast(SharedWeights, served.shared)
    begun = time.perf_counter()
    folder = proposals.cache_folder(network, shared) if options.cache else None
    photos = (*data.training, *data.validation)
    seen = proposals.collect(
        network, photos, device, folder, lambda done: report(Progress("features", done, len(photos)))
    )
    between = time.perf_counter()
    learner = names_head.Learner(head, network, data, seen[: len(data.training)], seen[len(data.training) :], options)
    identity = loop.identity(task, data.fingerprint(), options.model_dump(mode="json"), shared.network, shared.backbone)
    course = loop.run(learner, options.epochs, report, work, identity)
    end = time.perf_counter()
    head.load_state_dict(course.best_tensors)
    results = learner.results() if task == "detect" else answers(with_names(served, head, data), data.validation)
    seconds = {"features": between - begun, "training": end - between}
    return Outcome(
        task, "names", True, shared, dict(head.state_dict()), data.labels, course.epochs, course.best,
        _measure(data, task, results), starts, course.interrupted, options.cache, seconds,
    )  # fmt: skip


def _finetune_heads(data: ObjectSet, task: Task, options: Options, report: Report, work: Path | None) -> Outcome:
    """As `finetune`, on the CPU."""
    if len(data.training) < options.batch * options.processes:
        line = (
            f"{len(data.training)} photos to train on are fewer than a step takes, {options.batch * options.processes}"
        )
        raise dataset.bad_data((line,))
    masks, begun = task == "segment", time.perf_counter()
    network = detector.build(masks, len(data.labels), other=not options.fresh)
    shared = cast(SharedWeights, detector.shared_weights(network))
    identity = loop.identity(task, data.fingerprint(), options.model_dump(mode="json"), shared.backbone)
    course, starts = heads.fit(data, options, report, work, identity, masks=masks)
    tensors = heads.finish(course, data, options, masks=masks)
    end = time.perf_counter()
    rcnn_tiny.restore(network, {key: value.float() for key, value in tensors.items()})
    # Class ids are category ids, so that the answers can be measured.
    hidden_classes = [(0, name, False) for name in ("background", "other")[: 2 - options.fresh]]
    categories = [
        *hidden_classes,
        *((number, label, True) for number, label in zip(data.category_ids, data.labels, strict=True)),
    ]
    kind = SegmentOptions if masks else DetectOptions
    served = instances.load(network.eval(), "fine-tuned", "tiny", "cpu", kind, categories)
    return Outcome(
        task, "heads", not options.fresh, shared, tensors, data.labels, course.epochs, course.best,
        _measure(data, task, answers(served, data.validation)), starts, course.interrupted, False,
        {"features": 0.0, "training": end - begun},
    )  # fmt: skip


def with_names(task: Rcnn, head: LabelHead, data: ObjectSet) -> Rcnn:
    """A task whose own model answers a set's labels by a names' head, each with its category id."""
    class_ids, names = (0, *data.category_ids), ("background", *data.labels)
    card = replace(task.card, labels=data.labels)
    return replace(task, published=Detector(card, task.network, class_ids, names, head.eval()))


def answers(task: Rcnn, photos: Sequence[Photo]) -> Results:
    """What is answered for photos as it would be served, in COCO's results format."""
    results: Results = []
    for photo in photos:
        found = catalogue.run(cast(Any, task), photo.image(), score_threshold=LOWEST_SCORE)
        corners = cast(NDArray[np.float32], found.boxes)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)
        for row, (class_id, score, box) in enumerate(zip(found.class_ids, found.scores, boxes.tolist(), strict=True)):
            result = {"image_id": photo.image_id, "category_id": int(class_id), "bbox": box, "score": float(score)}
            if found.masks is not None:
                bitmap = np.asfortranarray(found.masks[row].full(*photo.size).astype(np.uint8))
                result["segment"] = coco_mask.encode(bitmap)
            results.append(result)
    return results


def _measure(data: ObjectSet, task: Task, results: Results) -> dict[str, Measured]:
    truth, ids = data.truth(), [photo.image_id for photo in data.validation]
    kinds: dict[str, measure.Kind] = {"box": "bbox"}
    if task == "segment":
        kinds["mask"] = "segm"
    return {name: measure.measure(truth, ids, results, kind, data.category_ids) for name, kind in kinds.items()}
