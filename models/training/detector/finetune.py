"""Fine-tune detect and segment over the tiny profile's network, from annotated images.

    images -> built-in network, frozen (once, cached on disk) -> proposals -> label head -> own labels
                                                                           -> own mask branch (freeze=backbone)

Boxes and masks do not depend on the label, so new labels need little: the label head takes a few dozen images and a few
minutes.
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
from foursight.models.evaluation import measure
from foursight.models.evaluation.measure import CocoMetrics
from foursight.models.finetuned import detector
from foursight.models.finetuned.detector import Own
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.networks.ssd_rcnn.network import SigmoidHeads
from foursight.models.tasks import detect, segment
from foursight.models.tasks.instances import Rcnn
from foursight.models.tasks.objects import Detector
from foursight.models.tasks.ssd_forward import SsdNetwork
from foursight.models.training import checkpoints, loop
from foursight.models.training.detection_data import AnnotatedImage, DetectionDataset, Split
from foursight.models.training.detector import heads, proposals
from foursight.models.training.detector.heads import Results
from foursight.models.training.loop import OnProgress, Progress

Task = Literal["detect", "segment"]
# Below this nothing leaves the network; AP is the area under all thresholds.
LOWEST_SCORE = 0.05
OWN: dict[str, Own] = {"all": "labels", "backbone": "labels and masks"}


class Options(BaseModel):
    """Options of training; the defaults suit a few hundred images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[
        Literal["all", "backbone"],
        Field(description="What is frozen: all of the built-in network, or all but its mask branch (segment)."),
    ] = "all"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Images per step.")] = 8
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[Split, Field(description="How to choose the validation images: by content or by name.")] = (
        "content"
    )
    cache: Annotated[bool, Field(description="Cache what the frozen network computes.")] = True

    @field_validator("freeze", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value not in ("all", "backbone"):
            raise ValueError("must be all or backbone; stages of the backbone cannot be trained for this task")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Options":
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
    shared: str
    tensors: dict[str, Tensor]
    labels: tuple[str, ...]
    epochs: list[Any]
    best: int
    metrics: dict[str, CocoMetrics]
    starts: list[str]
    interrupted: bool
    cached: bool
    seconds: dict[str, float]


def finetune(
    data: DetectionDataset,
    task: Task,
    options: Options,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a detector or segmenter of `data.labels` over the built-in network.

    Checkpoints and interruptions are those of `classifier.finetune`. Raises DataError (bad_data; checkpoint_mismatch).
    """
    torch.manual_seed(options.seed)
    masks, own = task == "segment", OWN[options.freeze]
    trained = detector.build(len(data.labels), own)
    starts = heads.initialize(trained, data.labels)
    if trained.has_mask():
        heads.initialize_masks(trained, ssd_rcnn.load(masks).roi_heads)
    trained.to(device)
    # What is learnt from is what is served, on its engines.
    served = (segment if masks else detect).load("tiny", device.type)
    network = cast(SsdNetwork, served.network)
    shared = network.shared
    begun = time.perf_counter()
    is_cached = options.cache and own == "labels"
    images = (*data.training, *data.validation)
    seen = proposals.collect(
        network, images, device, proposals.cache_folder(shared) if is_cached else None,
        lambda done: on_progress(Progress("features", done, len(images))), own != "labels",
    )  # fmt: skip
    between = time.perf_counter()
    learner = heads.Learner(trained, data, seen[: len(data.training)], seen[len(data.training) :], options)
    identity = checkpoints.identity(task, data.fingerprint(), options.model_dump(mode="json"), shared)
    state = loop.run(learner, options.epochs, on_progress, work, identity)
    end = time.perf_counter()
    trained.load_state_dict(state.best_tensors)
    tensors = dict(trained.state_dict())
    results = predict(with_heads(served, trained, data), data.validation)
    seconds = {"features": between - begun, "training": end - between}
    return Outcome(
        task, own, shared, tensors, data.labels, state.epochs, state.best, _measure(data, task, results), starts,
        state.interrupted, is_cached, seconds,
    )  # fmt: skip


def with_heads(task: Rcnn, trained: SigmoidHeads, data: DetectionDataset) -> Rcnn:
    """Return a task that answers with trained heads; its class ids are the category ids."""
    class_ids, names = (0, *data.category_ids), ("background", *data.labels)
    card = replace(task.card, labels=data.labels)
    heads = detector.serve(trained, torch.device(task.card.device))
    return replace(task, published=Detector(card, class_ids, names, heads))


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
