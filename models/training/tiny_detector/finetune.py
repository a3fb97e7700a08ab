"""Fine-tune detect and segment over the tiny profile's network, from COCO files.

    images -> built-in network, frozen (once, cached on disk) -> proposals -> label head -> own labels
    images -> frozen backbone -> pyramid, proposals, box, label and mask heads, all of them trained

Boxes and masks do not depend on the label, so new labels need little: the first way takes a few dozen images and a few
minutes. The second is how the built-in network was trained (heads.py).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from foursight.models import catalogue
from foursight.models.engines import devices
from foursight.models.errors import OptionError
from foursight.models.evaluation import measure
from foursight.models.evaluation.measure import CocoMetrics
from foursight.models.finetuned import detector
from foursight.models.finetuned.detector import LabelHead, Own, SharedWeights
from foursight.models.networks import rcnn_tiny
from foursight.models.tasks import detect, instances, segment
from foursight.models.tasks.instances import Rcnn
from foursight.models.tasks.rcnn_forward import Detector
from foursight.models.training import checkpoints, datasets, loop
from foursight.models.training.detection_data import AnnotatedImage, DetectionDataset, Split
from foursight.models.training.loop import OnProgress, Progress
from foursight.models.training.tiny_detector import heads, label_head, proposals
from foursight.models.training.tiny_detector.label_head import Results
from foursight.schema.options import DetectOptions, SegmentOptions

Task = Literal["detect", "segment"]
# Below this nothing leaves the network; AP is the area under all thresholds.
LOWEST_SCORE = 0.05
HEADS_DEFAULTS = {"epochs": 20, "lr": 1e-3, "batch": 2}


class Options(BaseModel):
    """Options of training; the defaults suit a label head on a few hundred images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[
        Literal["all", "backbone"],
        Field(description="What is frozen: the whole built-in network, or only its backbone."),
    ] = "all"
    init: Annotated[
        Literal["pretrained", "random"], Field(description="Initial weights of heads, with freeze=backbone.")
    ] = "pretrained"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Images per step.")] = 8
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[Split, Field(description="How to choose the validation images: by content or by name.")] = (
        "content"
    )
    cache: Annotated[bool, Field(description="Cache what the frozen network computes.")] = True
    processes: Annotated[
        int, Field(ge=1, le=64, description="Training processes, one core each, with freeze=backbone.")
    ] = 1

    @property
    def random_init(self) -> bool:
        """Whether the heads start from random weights."""
        return self.init == "random"

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Training heads has other defaults."""
        if given.get("init") == "random":
            given = {"freeze": "backbone"} | given
        return (HEADS_DEFAULTS if given.get("freeze") == "backbone" else {}) | given

    @field_validator("freeze", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value not in ("all", "backbone"):
            raise ValueError("must be all or backbone; stages of the backbone cannot be trained for this task")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
        if self.freeze == "all" and (self.random_init or self.processes > 1):
            raise ValueError("init=random and processes need freeze=backbone")
        if self.freeze == "backbone" and not self.cache:
            raise ValueError("cache=False needs freeze=all: with freeze=backbone nothing is cached")
        return self


@dataclass
class Outcome:
    """The trained model, and its training: `tensors` and `own` are the model's, `starts` says how labels began.

    `metrics` has pycocotools' metrics of "box" and "mask". `seconds` has the times of the phases features and training.
    """

    task: Task
    own: Own
    other: bool
    shared: SharedWeights
    tensors: dict[str, Tensor]
    labels: tuple[str, ...]
    epochs: list[Any]
    best: int
    metrics: dict[str, CocoMetrics]
    starts: list[str]
    interrupted: bool
    cached: bool
    seconds: dict[str, float]


def device_for(options: Options, device: str) -> torch.device:
    """Return the device for "auto", "cpu" or "cuda". Raises OptionError for heads on a GPU: they train on the CPU only.

    For heads, "auto" is the CPU.
    """
    if options.freeze == "backbone":
        if device == "auto":
            return torch.device("cpu")
        require_cpu(torch.device(device))
    return devices.resolve(device)


def require_cpu(device: torch.device) -> None:
    """Raise OptionError unless the device is the CPU."""
    if device.type != "cpu":
        raise OptionError(
            "invalid_parameter",
            f"freeze=backbone trains on the CPU only, not on {device.type}.",
            "Use the device cpu or auto, or freeze=all.",
            option="device",
        )


def finetune(
    data: DetectionDataset,
    task: Task,
    options: Options,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a detector or segmenter of `data.labels` over the built-in network.

    Checkpoints and interruptions are those of `classifier.finetune`. Raises DataError (bad_data; checkpoint_mismatch)
    and OptionError (heads on another device than the CPU).
    """
    if options.freeze == "backbone":
        require_cpu(device)
        return _finetune_heads(data, task, options, on_progress, work)
    torch.manual_seed(options.seed)
    head = LabelHead(len(data.labels))
    starts = label_head.initialize(head, data.labels, rcnn_tiny.load(masks=False))
    head.to(device)
    # What is learnt from is what is served, on its engines.
    served = (segment if task == "segment" else detect).load("tiny", str(device))
    network, shared = served.network, cast(SharedWeights, served.shared)
    begun = time.perf_counter()
    folder = proposals.cache_folder(network, shared) if options.cache else None
    photos = (*data.training, *data.validation)
    seen = proposals.collect(
        network, photos, device, folder, lambda done: on_progress(Progress("features", done, len(photos)))
    )
    between = time.perf_counter()
    learner = label_head.Learner(head, network, data, seen[: len(data.training)], seen[len(data.training) :], options)
    identity = checkpoints.identity(
        task, data.fingerprint(), options.model_dump(mode="json"), shared.network, shared.backbone
    )
    state = loop.run(learner, options.epochs, on_progress, work, identity)
    end = time.perf_counter()
    head.load_state_dict(state.best_tensors)
    results = learner.results() if task == "detect" else predict(with_labels(served, head, data), data.validation)
    seconds = {"features": between - begun, "training": end - between}
    return Outcome(
        task, "names", True, shared, dict(head.state_dict()), data.labels, state.epochs, state.best,
        _measure(data, task, results), starts, state.interrupted, options.cache, seconds,
    )  # fmt: skip


def _finetune_heads(
    data: DetectionDataset, task: Task, options: Options, on_progress: OnProgress, work: Path | None
) -> Outcome:
    """As `finetune`, on the CPU."""
    if len(data.training) < options.batch * options.processes:
        line = (
            f"{len(data.training)} training images are fewer than one step takes, {options.batch * options.processes}"
        )
        raise datasets.bad_data((line,))
    masks, begun = task == "segment", time.perf_counter()
    network = detector.build(masks, len(data.labels), other=not options.random_init)
    shared = cast(SharedWeights, detector.shared_weights(network))
    identity = checkpoints.identity(task, data.fingerprint(), options.model_dump(mode="json"), shared.backbone)
    state, starts = heads.fit(data, options, on_progress, work, identity, masks=masks)
    tensors = heads.finish(state, data, options, masks=masks)
    end = time.perf_counter()
    rcnn_tiny.restore(network, {key: value.float() for key, value in tensors.items()})
    # Class ids are category ids, so that the predictions can be measured.
    hidden_classes = [(0, name, False) for name in ("background", "other")[: 2 - options.random_init]]
    categories = [
        *hidden_classes,
        *((number, label, True) for number, label in zip(data.category_ids, data.labels, strict=True)),
    ]
    kind = SegmentOptions if masks else DetectOptions
    served = instances.load(network.eval(), "fine-tuned", "tiny", "cpu", kind, categories)
    return Outcome(
        task, "heads", not options.random_init, shared, tensors, data.labels, state.epochs, state.best,
        _measure(data, task, predict(served, data.validation)), starts, state.interrupted, False,
        {"features": 0.0, "training": end - begun},
    )  # fmt: skip


def with_labels(task: Rcnn, head: LabelHead, data: DetectionDataset) -> Rcnn:
    """Return a task that answers with a label head; its class ids are the category ids."""
    class_ids, names = (0, *data.category_ids), ("background", *data.labels)
    card = replace(task.card, labels=data.labels)
    return replace(task, published=Detector(card, task.network, class_ids, names, head.eval()))


def predict(task: Rcnn, images: Sequence[AnnotatedImage]) -> Results:
    """Return a served task's predictions for images, in COCO's results format."""
    results: Results = []
    for image in images:
        found = catalogue.run(cast(Any, task), image.image(), score_threshold=LOWEST_SCORE)
        masks = None if found.masks is None else (mask.full(*image.size) for mask in found.masks)
        results += measure.coco_results(
            image.image_id, cast(NDArray[np.float32], found.boxes), found.scores, found.class_ids, masks
        )
    return results


def _measure(data: DetectionDataset, task: Task, results: Results) -> dict[str, CocoMetrics]:
    truth, ids = data.truth(), [image.image_id for image in data.validation]
    kinds: dict[str, measure.Kind] = {"box": "bbox"}
    if task == "segment":
        kinds["mask"] = "segm"
    return {name: measure.measure(truth, ids, results, kind, data.category_ids) for name, kind in kinds.items()}
