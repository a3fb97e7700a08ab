"""Transfer learning for detection and segmentation, on COCO's format.

    photos -> shipped network, frozen (once, kept on disk) -> proposals -> names' head -> labels of one's own
    photos -> frozen backbone -> pyramid, proposals, box, name and mask heads, all of them trained

Boxes and masks are the same for all names, so what is new with new labels is little: the first way needs a few dozen
photos and takes minutes. The second is how the shipped network itself was made (models/training/heads.py).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from foursight.models import devices, rcnn_engine, rcnn_tiny, rcnn_tuned
from foursight.models.rcnn_tuned import NamesHead, Own, Trunk
from foursight.models.training import loop, measure, names_head, proposals
from foursight.models.training.data import Photo
from foursight.models.training.loop import Progress, Report
from foursight.models.training.measure import Measured
from foursight.models.training.objects import ObjectSet, Split
from foursight.models.training.proposals import Seen

Task = Literal["detect", "segment"]


class Options(BaseModel):
    """How to train; the defaults are for a names' head on some hundred photos."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[Literal["all"], Field(description="all: the shipped network.")] = "all"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Photos of a step.")] = 8
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[
        Split, Field(description="How a fifth is held back: by the photos' content, or by their names.")
    ] = "content"
    cache: Annotated[bool, Field(description="Keep what the frozen network gives, where it is always the same.")] = True


@dataclass
class Outcome:
    """What was learnt, and how it came about: `tensors` and `own` are the model's, `starts` say where labels began.

    `measured` has pycocotools' figures by "box" and "mask". `seconds` are those of the features and of training.
    """

    task: Task
    own: Own
    other: bool
    trunk: Trunk
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
    network = rcnn_tiny.load(masks=task == "segment")
    trunk = rcnn_tuned.trunk_of(network)
    assert trunk is not None
    devices.place(network, device)
    torch.manual_seed(options.seed)
    head = NamesHead(len(data.labels))
    starts = names_head.initialise(head, data.labels, network)
    head.to(device)
    # What is learnt from is what will be served.
    rcnn_engine.install(network, device)
    begun = time.perf_counter()
    folder = proposals.cache_folder(network, trunk) if options.cache else None
    training, validation = _sources(data, network, folder, device, report)
    between = time.perf_counter()
    learner = names_head.Learner(head, network, data, training, validation, options)
    identity = loop.identity(task, data.fingerprint(), options.model_dump(mode="json"), trunk.network, trunk.backbone)
    course = loop.run(learner, options.epochs, report, work, identity)
    end = time.perf_counter()
    head.load_state_dict(course.best_tensors)
    seconds = {"features": between - begun, "training": end - between}
    return Outcome(
        task, "names", True, trunk, dict(head.state_dict()), data.labels, course.epochs, course.best,
        _measure(data, learner.results()), starts, course.interrupted, options.cache, seconds,
    )  # fmt: skip


def _sources(
    data: ObjectSet, network: GeneralizedRCNN, folder: Path | None, device: torch.device, report: Report
) -> tuple[names_head.Source, list[Seen]]:
    """Where the boxes to train on come from, and those to validate on."""
    total = len(data.training) + len(data.validation)
    done = 0

    def seen(more: int) -> None:
        nonlocal done
        done += more
        report(Progress("features", done, total))

    kept = proposals.collect(network, data.training, device, folder, seen)
    by_id = {
        photo.image_id: (kept, names_head.classes_of(photo)) for photo, kept in zip(data.training, kept, strict=True)
    }

    def training(photo: Photo, epoch: int) -> tuple[Seen, Tensor]:
        return by_id[photo.image_id]

    return training, proposals.collect(network, data.validation, device, folder, seen)


def _measure(data: ObjectSet, results: names_head.Results) -> dict[str, Measured]:
    truth, ids = data.truth(), [photo.image_id for photo in data.validation]
    return {"box": measure.measure(truth, ids, results, "bbox", data.category_ids)}
