"""Transfer learning for localization: labels of one's own for the largest object of each photo, on COCO's format.

views of photos -> frozen backbone (once) -> votes for a box, shipped or trained on -> labels of what is in the box
"""

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from foursight.models.engines import devices
from foursight.models.errors import ImageError
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.localizer import Own, TunedLocalizer
from foursight.models.networks import localizer
from foursight.models.networks.localizer import iou, pool
from foursight.models.training import dataset, imagenet, loop
from foursight.models.training import localizer as shipped
from foursight.models.training.data import Photo
from foursight.models.training.localizer_views import areas
from foursight.models.training.loop import Progress, Report
from foursight.models.training.objects import ObjectSet, Split

DROPOUT = 0.2
WINDOWS = 10


class Options(BaseModel):
    """How to train; the defaults are for some hundred photos."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[
        Literal["all", "backbone"], Field(description="What stays as it is: all but labels, or the backbone alone.")
    ] = "all"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate; votes take a tenth.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Views of a step.")] = 32
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[Split, Field(description="By what a fifth is held back.")] = "content"
    augment: Annotated[bool, Field(description=f"{WINDOWS} random windows of each photo, too.")] = False


@dataclass(frozen=True)
class Epoch:
    """Mean losses, and the shares of validation photos whose label, whose box (IoU .5), and whose both are right."""

    loss: float
    validation_loss: float
    label: float
    box: float
    both: float

    @property
    def figure(self) -> float:
        """The share of those where both are right."""
        return self.both


@dataclass(frozen=True)
class Views:
    """V views: maps float16 [V, 112, 20, 20] and [V, 1280, 10, 10], boxes float32 [V, 4] in 0..1, labels int64 [V]."""

    middle: Tensor
    semantic: Tensor
    boxes: Tensor
    labels: Tensor


@dataclass
class Outcome:
    """What was learnt, and how it came about; `confusion` is int64 [K, K], row: true label, column: best one."""

    own: Own
    shared: tuple[str, str]
    tensors: dict[str, Tensor]
    labels: tuple[str, ...]
    epochs: list[Epoch]
    best: int
    confusion: Tensor
    starts: list[str]
    interrupted: bool
    seconds: dict[str, float]


def finetune(
    data: ObjectSet,
    options: Options,
    device: torch.device,
    report: Report = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a localizer of `data.labels` on the shared backbone; `data` is as `largest` gives it.

    Checkpoints, interruptions and errors are those of `finetune.finetune`.
    """
    network = localizer.load()
    shared = finetuned_localizer.fingerprint(network.head, network.backbone)
    devices.move_to(network, device)
    torch.manual_seed(options.seed)
    own: Own = "votes" if options.freeze == "backbone" else "labels"
    model = TunedLocalizer(copy.deepcopy(network.head), len(data.labels))
    model.votes.requires_grad_(own == "votes")
    torch.nn.init.zeros_(model.labels.bias)
    starts = imagenet.start(model.labels.weight, data.labels, network.backbone)
    model.to(device)
    begun = time.perf_counter()
    training, validation = _views(data, network, options, report)
    between = time.perf_counter()
    learner = _Learner(model, training, validation, options)
    identity = loop.identity("localize", data.fingerprint(), options.model_dump(mode="json"), *shared)
    course = loop.run(learner, options.epochs, report, work, identity)
    end = time.perf_counter()
    model.load_state_dict(course.best_tensors)
    found, k = learner.answers()[0].argmax(1).cpu(), len(data.labels)
    confusion = torch.bincount(validation.labels.cpu() * k + found, minlength=k * k).reshape(k, k)
    return Outcome(
        own, shared, finetuned_localizer.own_tensors(model, own), data.labels, course.epochs, course.best, confusion,
        starts, course.interrupted, {"features": between - begun, "training": end - between},
    )  # fmt: skip


def largest(data: ObjectSet) -> ObjectSet:
    """The set with the largest object of each photo alone. Raises DataError (bad_data) for a label that is lost so."""

    def reduced(photos: tuple[Photo, ...]) -> tuple[Photo, ...]:
        return tuple(
            replace(photo, objects=(max(photo.objects, key=lambda item: item["bbox"][2] * item["bbox"][3]),))
            for photo in photos
            if photo.objects
        )

    found = replace(data, training=reduced(data.training), validation=reduced(data.validation))
    lost = [label for label, count in zip(found.labels, found.count(found.training), strict=True) if not count]
    if lost:
        lines = (f"class {label!r}: it is the largest object of no photo to train on" for label in lost)
        raise dataset.bad_data(tuple(lines))
    if not found.validation:
        raise dataset.bad_data(("no photo with an object is left to validate on",))
    return found


def _views(data: ObjectSet, network: localizer.Localizer, options: Options, report: Report) -> tuple[Views, Views]:
    """What is trained on (photos, their mirror images, windows), and validated on (photos as they are)."""
    total, done = len(data.training) + len(data.validation), 0
    chance = random.Random(options.seed)
    problems: dict[str, None] = {}
    sides: list[list[shipped.Features]] = [[], []]
    for side, (photos, windows) in enumerate(((data.training, WINDOWS * options.augment), (data.validation, 0))):
        for photo in photos:
            try:
                sides[side].append(shipped.extract(network, [photo], windows, chance))
            except (ImageError, OSError) as error:
                problems[dataset.unreadable_line(photo.path, error)] = None
            done += 1
            report(Progress("features", done, total))
    if problems:
        raise dataset.bad_data(tuple(problems))
    device = next(network.parameters()).device
    seen = _joined(sides[0], device)
    rows = (areas(seen.boxes) >= shipped.SMALLEST_SHARE).nonzero()[:, 0]
    if not len(rows):
        raise dataset.bad_data((f"no object covers {shipped.SMALLEST_SHARE:.0%} of its photo or more",))
    held_back = _joined(sides[1], device)
    whole = torch.arange(0, len(held_back.boxes), 2, device=device)
    return tuple(  # type: ignore[return-value]
        Views(views.middle[some], views.semantic[some], views.boxes[some], views.labels[some])
        for views, some in ((seen, rows), (held_back, whole))
    )


def _joined(features: list[shipped.Features], device: torch.device) -> Views:
    mains = [(photo, main) for one in features for photo, main in zip(one.photos, one.mains, strict=True)]
    labels = [photo.objects[main]["category_id"] - 1 for photo, main in mains]
    return Views(
        torch.cat([one.middle for one in features]).to(device),
        torch.cat([one.semantic for one in features]).to(device),
        torch.cat([one.boxes for one in features]).to(device),
        torch.tensor(labels, device=device),
    )


class _Learner(loop.Descent):
    """Cross-entropy of the labels, in true boxes, and the loss of the votes."""

    epoch_type = Epoch

    def __init__(self, model: TunedLocalizer, training: Views, validation: Views, options: Options) -> None:
        self._model, self._training, self._validation, self._options = model, training, validation, options
        votes = [parameter for parameter in model.votes.parameters() if parameter.requires_grad]
        super().__init__(model, model.labels.parameters(), votes, options.lr)
        self._votes = bool(votes)
        self.steps = math.ceil(len(training.labels) / options.batch)

    def train(self, epoch: int, total: int, told: Callable[[int, float], None]) -> Epoch:
        """As in loop.Learner."""
        loop.seed_epoch(self._options.seed, epoch)
        order = torch.randperm(len(self._training.labels))
        self._model.train()
        losses = []
        for step, rows in enumerate(torch.split(order, self._options.batch)):
            losses.append(self.descend(self._loss(self._training, rows), epoch, step, total))
            told(step + 1, losses[-1])
        return self._judge(sum(losses) / len(losses))

    def _loss(self, views: Views, rows: Tensor) -> Tensor:
        middle, semantic, boxes = views.middle[rows].float(), views.semantic[rows].float(), views.boxes[rows]
        inside = F.dropout(pool(semantic, boxes), DROPOUT, self._model.training)
        loss = F.cross_entropy(self._model.labels(inside), views.labels[rows])
        return loss + shipped.loss(self._model.votes, middle, semantic, boxes) if self._votes else loss

    @torch.no_grad()
    def _judge(self, loss: float) -> Epoch:
        logits, boxes = self.answers()
        label = logits.argmax(1) == self._validation.labels
        box = iou(boxes, self._validation.boxes) >= 0.5
        value = F.cross_entropy(logits, self._validation.labels).item()
        return Epoch(loss, value, *(right.float().mean().item() for right in (label, box, label & box)))

    @torch.no_grad()
    def answers(self) -> tuple[Tensor, Tensor]:
        """Logits [V, K] and boxes [V, 4] for the photos to validate on, as they are served."""
        self._model.eval()
        views = self._validation
        found = [
            self._model(middle.float(), semantic.float())
            for middle, semantic in zip(torch.split(views.middle, 64), torch.split(views.semantic, 64), strict=True)
        ]
        return torch.cat([logits for logits, _ in found]), torch.cat([boxes for _, boxes in found])

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """By photos where label and box are right, then by the labels, then by the loss."""
        return (one.both, one.label, -one.validation_loss) > (other.both, other.label, -other.validation_loss)
