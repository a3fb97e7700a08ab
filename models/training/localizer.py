"""Fine-tune a localizer: labels for the largest object of each image, from COCO files.

views of images -> frozen backbone (once) -> votes for a box, built-in or trained further -> label of what is in the box
"""

import copy
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from foursight.models.datasets import faults
from foursight.models.engines import devices
from foursight.models.errors import ImageError
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.localizer import Own, TunedLocalizer
from foursight.models.networks import localizer
from foursight.models.networks.localizer import VotingHead, cell_centres, iou, pool
from foursight.models.training import checkpoints, imagenet, loop
from foursight.models.training.detection_data import AnnotatedImage, DetectionDataset, Split
from foursight.models.training.localizer_features import Features, areas, extract
from foursight.models.training.loop import OnProgress, Progress

DROPOUT = 0.2
WINDOWS = 10
# A view whose largest object covers a smaller share has no main object to learn from; evaluation is stricter.
SMALLEST_SHARE = 0.04


class Options(BaseModel):
    """Options of training; the defaults suit a few hundred images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[
        Literal["all", "backbone"], Field(description="What is frozen: all but the labels, or only the backbone.")
    ] = "all"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate; votes get a tenth of it.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024, description="Views per step.")] = 32
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    split: Annotated[Split, Field(description="How to choose the validation images.")] = "content"
    augment: Annotated[bool, Field(description=f"Add {WINDOWS} random windows of each image.")] = False


@dataclass(frozen=True)
class Epoch:
    """Mean losses, and the shares of validation images whose label, box (IoU .5), and both are right."""

    loss: float
    validation_loss: float
    label: float
    box: float
    both: float

    @property
    def figure(self) -> float:
        """The share of images with both right."""
        return self.both


@dataclass(frozen=True)
class Views:
    """V views: maps float16 [V, 112, 20, 20] and [V, 1280, 10, 10], boxes float32 [V, 4] in 0..1, labels int64 [V]."""

    middle: Tensor
    semantic: Tensor
    boxes: Tensor
    labels: Tensor

    def at(self, rows: Tensor) -> "Views":
        """Return some of the views."""
        return Views(self.middle[rows], self.semantic[rows], self.boxes[rows], self.labels[rows])


@dataclass
class Outcome:
    """The best epoch's model, and its training; `confusion` is int64 [K, K], row: true label, column: best label."""

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
    data: DetectionDataset,
    options: Options,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a localizer of `data.labels` on the shared backbone; `data` must come from `keep_largest`.

    Checkpoints, interruptions and errors are those of `classifier.finetune`.
    """
    network = localizer.load()
    shared = finetuned_localizer.fingerprint(network.head, network.backbone)
    devices.move_to(network, device)
    torch.manual_seed(options.seed)
    own: Own = "votes" if options.freeze == "backbone" else "labels"
    model = TunedLocalizer(copy.deepcopy(network.head), len(data.labels))
    model.votes.requires_grad_(own == "votes")
    torch.nn.init.zeros_(model.labels.bias)
    starts = imagenet.initialize(model.labels.weight, data.labels, network.backbone)
    model.to(device)
    begun = time.perf_counter()
    training, validation = _read_views(data, network, options, on_progress)
    between = time.perf_counter()
    learner = _Learner(model, training, validation, options)
    identity = checkpoints.identity("localize", data.fingerprint(), options.model_dump(mode="json"), *shared)
    state = loop.run(learner, options.epochs, on_progress, work, identity)
    end = time.perf_counter()
    model.load_state_dict(state.best_tensors)
    found, k = learner.predict()[0].argmax(1).cpu(), len(data.labels)
    confusion = torch.bincount(validation.labels.cpu() * k + found, minlength=k * k).reshape(k, k)
    return Outcome(
        own, shared, finetuned_localizer.own_tensors(model, own), data.labels, state.epochs, state.best, confusion,
        starts, state.interrupted, {"features": between - begun, "training": end - between},
    )  # fmt: skip


def keep_largest(data: DetectionDataset) -> DetectionDataset:
    """Return the data with only the largest object of each image. Raises DataError (bad_data) if a label is lost."""

    def reduce(images: tuple[AnnotatedImage, ...]) -> tuple[AnnotatedImage, ...]:
        return tuple(
            replace(image, objects=(max(image.objects, key=lambda item: item["bbox"][2] * item["bbox"][3]),))
            for image in images
            if image.objects
        )

    found = replace(data, training=reduce(data.training), validation=reduce(data.validation))
    lost = [label for label, count in zip(found.labels, found.count(found.training), strict=True) if not count]
    if lost:
        lines = (f"class {label!r}: not the largest object of any training image" for label in lost)
        raise faults.bad_data(tuple(lines))
    if not found.validation:
        raise faults.bad_data(("no image with an object is left for validation",))
    return found


def _read_views(
    data: DetectionDataset, network: localizer.Localizer, options: Options, on_progress: OnProgress
) -> tuple[Views, Views]:
    """Return the views for training (images, mirror images, windows) and validation (images as they are)."""
    total, done = len(data.training) + len(data.validation), 0
    chance = random.Random(options.seed)
    problems: dict[str, None] = {}
    sides: list[list[Features]] = [[], []]
    for side, (images, windows) in enumerate(((data.training, WINDOWS * options.augment), (data.validation, 0))):
        for image in images:
            try:
                sides[side].append(extract(network, [image], windows, chance))
            except (ImageError, OSError) as error:
                problems[faults.unreadable_line(image.path, error)] = None
            done += 1
            on_progress(Progress("features", done, total))
    if problems:
        raise faults.bad_data(tuple(problems))
    device = next(network.parameters()).device
    training, validation = _join(sides[0], device), _join(sides[1], device)
    rows = (areas(training.boxes) >= SMALLEST_SHARE).nonzero()[:, 0]
    if not len(rows):
        raise faults.bad_data((f"no object covers {SMALLEST_SHARE:.0%} of its image or more",))
    # Every second view is a mirror image.
    return training.at(rows), validation.at(torch.arange(0, len(validation.boxes), 2, device=device))


def _join(features: list[Features], device: torch.device) -> Views:
    mains = [(image, main) for one in features for image, main in zip(one.images, one.mains, strict=True)]
    labels = [image.objects[main]["category_id"] - 1 for image, main in mains]
    return Views(
        torch.cat([one.middle for one in features]).to(device),
        torch.cat([one.semantic for one in features]).to(device),
        torch.cat([one.boxes for one in features]).to(device),
        torch.tensor(labels, device=device),
    )


class _Learner(loop.AdamWLearner[Epoch]):
    """Cross-entropy of the labels inside the true boxes, and the loss of the votes."""

    epoch_type = Epoch

    def __init__(self, model: TunedLocalizer, training: Views, validation: Views, options: Options) -> None:
        self._model, self._training, self._validation = model, training, validation
        votes = [parameter for parameter in model.votes.parameters() if parameter.requires_grad]
        self._trains_votes = bool(votes)
        super().__init__(
            model,
            model.labels.parameters(),
            votes,
            examples=len(training.labels),
            lr=options.lr,
            batch=options.batch,
            seed=options.seed,
        )

    def order(self, epoch: int) -> list[int]:
        """As in AdamWLearner."""
        return torch.randperm(self._examples).tolist()

    def batch_loss(self, rows: list[int], epoch: int) -> Tensor:
        """As in AdamWLearner."""
        views = self._training.at(torch.tensor(rows))
        middle, semantic = views.middle.float(), views.semantic.float()
        inside = F.dropout(pool(semantic, views.boxes), DROPOUT, self._model.training)
        loss = F.cross_entropy(self._model.labels(inside), views.labels)
        return loss + votes_loss(self._model.votes, middle, semantic, views.boxes) if self._trains_votes else loss

    @torch.no_grad()
    def validate(self, loss: float) -> Epoch:
        """As in AdamWLearner."""
        logits, boxes = self.predict()
        label = logits.argmax(1) == self._validation.labels
        box = iou(boxes, self._validation.boxes) >= 0.5
        value = F.cross_entropy(logits, self._validation.labels).item()
        return Epoch(loss, value, *(right.float().mean().item() for right in (label, box, label & box)))

    @torch.no_grad()
    def predict(self) -> tuple[Tensor, Tensor]:
        """Return logits [V, K] and boxes [V, 4] of the validation images, as the served model computes them."""
        self._model.eval()
        views = self._validation
        found = [
            self._model(middle.float(), semantic.float())
            for middle, semantic in zip(torch.split(views.middle, 64), torch.split(views.semantic, 64), strict=True)
        ]
        return torch.cat([logits for logits, _ in found]), torch.cat([boxes for _, boxes in found])

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """Compare by images with label and box right, then by labels, then by loss."""
        return (one.both, one.label, -one.validation_loss) > (other.both, other.label, -other.validation_loss)


def votes_loss(head: VotingHead, middle: Tensor, semantic: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of votes for boxes [N, 4]: of their weights, their boxes and the mean box.

    Boxes are compared by GIoU (Rezatofighi et al. 2019).
    """
    middle, semantic = (F.dropout2d(level, DROPOUT, head.training) for level in (middle, semantic))
    votes, boxes = head(middle, semantic)
    wanted = _near_centre(cell_centres(middle).flatten(1), targets)
    placing = -(wanted * votes.log_softmax(1)).sum(1).mean()
    each: Tensor = generalized_box_iou_loss(boxes, targets[:, None].expand_as(boxes))
    mean_box: Tensor = generalized_box_iou_loss((boxes * votes.softmax(1)[..., None]).sum(1), targets)
    total: Tensor = 0.5 * placing + (wanted * each).sum(1).mean() + mean_box.mean()
    return total


def _near_centre(cells: Tensor, boxes: Tensor) -> Tensor:
    """Return the wanted weight of each cell [2, M] for boxes [N, 4]: [N, M], sum 1.

    It is a Gaussian around the centre with a standard deviation of a fifth of the sides.
    """
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.05)
    offsets = (cells[None] - centres[..., None]) / (0.2 * sides[..., None])
    return (-offsets.square().sum(1) / 2).softmax(1)
