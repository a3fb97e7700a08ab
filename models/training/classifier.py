"""Fine-tune a classifier: a new head and, optionally, the last stages of the backbone.

    images -> frozen stages (computed once, cached on disk) -> trained stages (if any) -> head -> cross-entropy

The first stages of a convolutional network carry over to other tasks (Yosinski et al., "How transferable are features
in deep neural networks?", 2014), so a few dozen images per class are enough.
"""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models.datasets import faults
from foursight.models.engines import devices
from foursight.models.finetuned import classifier
from foursight.models.finetuned.classifier import TunedClassifier
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.networks.head import POOLS, ClassifierHead, HeadSpec, pool
from foursight.models.training import augment, checkpoints, classification_data, features, loop
from foursight.models.training.classification_data import Dataset, Sample
from foursight.models.training.loop import OnProgress, Progress

# A feature map with more values takes longer to read from disk than its stages take to compute.
LARGEST_CACHED = 100_000


class Options(BaseModel):
    """Options of training; the defaults suit a few hundred images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[str, Field(description="Frozen stages of the backbone: all, stage1 .. stageN, or none.")] = "all"
    head: HeadSpec = HeadSpec()
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[
        float, Field(gt=0, le=1, description="Largest learning rate; stages of the backbone get a tenth of it.")
    ] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024)] = 32
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    augment: bool = False
    cache: Annotated[bool, Field(description="Cache the features of the frozen stages.")] = True

    @field_validator("freeze")
    @classmethod
    def _known(cls, value: str) -> str:
        if re.fullmatch(r"all|none|stage[1-9]", value) is None:
            raise ValueError("must be all, none, stage1, stage2, ...")
        return value

    def frozen(self, count: int) -> int:
        """Return how many of `count` stages are frozen. Raises ValueError if there is no such stage."""
        if self.freeze in ("all", "none"):
            return count if self.freeze == "all" else 0
        number = int(self.freeze.removeprefix("stage"))
        if number > count:
            raise ValueError(f"This backbone has the stages stage1 .. stage{count}; freeze one of them, all or none.")
        return number


@dataclass(frozen=True)
class Epoch:
    """Mean losses, and the share of validation examples whose best label is right."""

    loss: float
    validation_loss: float
    accuracy: float

    @property
    def figure(self) -> float:
        """The accuracy."""
        return self.accuracy


@dataclass
class Outcome:
    """The best epoch's model, and its training.

    `confusion` counts validation examples, int64 [K, K], row: true class, column: best label. `seconds` has the times
    of the phases features and training.
    """

    model: TunedClassifier
    labels: tuple[str, ...]
    epochs: list[Epoch]
    best: int
    confusion: Tensor
    interrupted: bool
    cached: bool
    seconds: dict[str, float]
    top5: float


def finetune(
    data: Dataset,
    base: Backbone,
    options: Options,
    device: torch.device,
    on_progress: OnProgress = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a classifier of `data.labels` on a backbone, which is not changed.

    `work` is the folder of the checkpoint that is written after each epoch; if it holds one of the same run, training
    continues from there. KeyboardInterrupt after the first epoch ends training and keeps the best epoch; before, it is
    raised.

    Raises DataError (bad_data; checkpoint_mismatch) and ValueError (options.freeze).
    """
    published = stages.split(base.network)
    frozen = options.frozen(len(published))
    fingerprint = stages.fingerprint(published)
    devices.move_to(base.network, device)
    torch.manual_seed(options.seed)
    head = ClassifierHead(options.head, classifier.channels(published), len(data.labels))
    model = TunedClassifier(published, frozen, head)
    devices.move_to(model, device)
    start = time.perf_counter()
    parts = _Parts(data, base, published, model, options, device, fingerprint)
    training, validation = parts.sources(on_progress)
    between = time.perf_counter()
    identity = checkpoints.identity(data.fingerprint(), options.model_dump(mode="json"), fingerprint)
    learner = _Learner(model, parts, training, validation, data, options)
    state = loop.run(learner, options.epochs, on_progress, work, identity)
    end = time.perf_counter()
    model.load_state_dict(state.best_tensors)
    model.eval()
    logits, truth, k = learner.logits(), _labels(data.validation, device), len(data.labels)
    confusion = torch.bincount(truth * k + logits.argmax(1), minlength=k * k).reshape(k, k).cpu()
    top5 = (logits.topk(min(5, k), 1).indices == truth[:, None]).any(1).float().mean().item()
    seconds = {"features": between - start, "training": end - between}
    return Outcome(
        model, data.labels, state.epochs, state.best, confusion, state.interrupted, parts.cached, seconds, top5
    )


class _Parts:
    """The frozen part, whose features may be cached, and the trained part of a model.

    If neither a stage nor a convolution in the head is trained, the frozen part includes the pooling.
    """

    def __init__(
        self,
        data: Dataset,
        base: Backbone,
        published: nn.ModuleList,
        model: TunedClassifier,
        options: Options,
        device: torch.device,
        fingerprint: str,
    ) -> None:
        self._data, self._base, self._model, self._options = data, base, model, options
        self._prefix = published[: model.frozen]
        self._device = device
        self._fingerprint = fingerprint
        self._pooled = not len(model.stages) and model.head.conv is None
        with torch.no_grad():
            shape = self.frozen(torch.zeros(1, 3, base.view.crop, base.view.crop, device=device)).shape
        self.cached = options.cache and model.frozen > 0 and math.prod(shape) <= LARGEST_CACHED

    def frozen(self, pixels: Tensor) -> Tensor:
        """Map normalised pixels, float [N, 3, H, W], to the input of `trained`."""
        maps = stages.run(self._prefix, pixels)
        # All kinds of pooling, [N, 3, C], so that a run with another kind finds its features in the cache.
        return torch.stack([pool(maps, kind) for kind in POOLS], 1) if self._pooled else maps

    def trained(self, x: Tensor) -> Tensor:
        """Return logits [N, K]."""
        if self._pooled:
            return self._model.head.classify(x[:, POOLS.index(self._model.head.spec.pool)])
        return torch.as_tensor(self._model.head(self._model.tail(x)))

    def sources(self, on_progress: OnProgress) -> tuple[features.FeatureSource, features.FeatureSource]:
        """Return the features of training and validation examples. Raises DataError (bad_data)."""
        training, validation = self._data.training, self._data.validation
        center = features.center_view(self._base)
        if not self.cached:
            # Fail now if an image is unreadable, not in the middle of an epoch.
            problems = classification_data.unreadable((*training, *validation))
            if problems:
                raise faults.bad_data(tuple(problems))
        augmented = self._options.augment
        total = len(validation) + (0 if augmented else len(training)) if self.cached else 0
        done = 0

        def on_done(more: int) -> None:
            nonlocal done
            done += more
            on_progress(Progress("features", done, total))

        def online(samples: Sequence[Sample], view: features.View) -> features.FeatureSource:
            return features.OnlineFeatures(samples, self._base, self.frozen, self._device, view)

        def fixed(samples: Sequence[Sample]) -> features.FeatureSource:
            if not self.cached:
                return online(samples, center)
            part = f"{self._model.frozen} {' '.join(POOLS) if self._pooled else 'map'}"
            folder = features.cache_folder(self._fingerprint, self._base, part)
            return features.compute_or_load(samples, self._base, self.frozen, self._device, folder, on_done)

        random_views = augment.random_views(self._base, self._options.seed)
        return online(training, random_views) if augmented else fixed(training), fixed(validation)


class _Learner(loop.AdamWLearner[Epoch]):
    """Cross-entropy over a head and the trained stages before it."""

    epoch_type = Epoch
    # Batch normalisation cannot train on a single example. A skipped example falls into a larger batch in other epochs.
    smallest_batch = 2

    def __init__(
        self,
        model: TunedClassifier,
        parts: _Parts,
        training: features.FeatureSource,
        validation: features.FeatureSource,
        data: Dataset,
        options: Options,
    ) -> None:
        self._parts, self._training, self._validation = parts, training, validation
        device = next(model.parameters()).device
        self._labels, self._truth = _labels(data.training, device), _labels(data.validation, device)
        super().__init__(
            model,
            model.head.parameters(),
            model.stages.parameters(),
            examples=len(data.training),
            lr=options.lr,
            batch=options.batch,
            seed=options.seed,
        )

    def batch_loss(self, rows: list[int], epoch: int) -> Tensor:
        """As in AdamWLearner."""
        return F.cross_entropy(self._parts.trained(self._training.rows(rows, epoch)), self._labels[rows])

    def validate(self, loss: float) -> Epoch:
        """As in AdamWLearner."""
        logits = self.logits()
        accuracy = (logits.argmax(1) == self._truth).float().mean().item()
        return Epoch(loss, F.cross_entropy(logits, self._truth).item(), accuracy)

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """Compare by accuracy, then by loss."""
        return (one.accuracy, -one.validation_loss) > (other.accuracy, -other.validation_loss)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Return the logits of all validation examples, float [N, K]; the model must be in eval mode."""
        size, count = 64, len(self._truth)
        chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return torch.cat([self._parts.trained(self._validation.rows(chunk, 0)) for chunk in chunks])


def _labels(samples: Sequence[Sample], device: torch.device) -> Tensor:
    return torch.tensor([sample.label for sample in samples], device=device)
