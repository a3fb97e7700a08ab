"""Transfer learning for classification: a new head, and as many stages of the backbone as are wanted, on one's own set.

    photos -> frozen stages (once, kept on disk) -> trained stages (if any) -> head -> cross-entropy

The first stages of a convolutional network carry over to other tasks (Yosinski et al., "How transferable are features
in deep neural networks?", 2014), so a few dozen photos of a class are enough for the rest.
"""

import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models.engines import devices
from foursight.models.finetuned import classifier
from foursight.models.finetuned.classifier import TunedClassifier
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.networks.head import POOLS, ClassifierHead, HeadSpec, pool
from foursight.models.training import augment, dataset, features, loop
from foursight.models.training.dataset import Dataset
from foursight.models.training.loop import Progress, Report

# A map with more values than this costs more to read than the stages before it to compute.
KEPT_VALUES = 100_000


class Options(BaseModel):
    """How to train; the defaults are for some hundred photos."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    freeze: Annotated[str, Field(description="Stages of the backbone that stay as they are: all, stage1 .., none.")] = (
        "all"
    )
    head: HeadSpec = HeadSpec()
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 30
    lr: Annotated[float, Field(gt=0, le=1, description="Largest learning rate; trained stages take a tenth.")] = 2e-3
    batch: Annotated[int, Field(ge=1, le=1024)] = 32
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    augment: bool = False
    cache: Annotated[bool, Field(description="Keep what the frozen stages give, where it is always the same.")] = True

    @field_validator("freeze")
    @classmethod
    def _named(cls, value: str) -> str:
        if re.fullmatch(r"all|none|stage[1-9]", value) is None:
            raise ValueError("one of all, none, stage1, stage2, ...")
        return value

    def frozen(self, count: int) -> int:
        """How many of `count` stages are frozen. Raises ValueError for a stage that is not there."""
        if self.freeze in ("all", "none"):
            return count if self.freeze == "all" else 0
        number = int(self.freeze.removeprefix("stage"))
        if number > count:
            raise ValueError(f"this backbone has {count} stages: stage1 .. stage{count}, all or none")
        return number


@dataclass(frozen=True)
class Epoch:
    """The figures after an epoch: mean losses, and the share of validation examples whose best label is right."""

    loss: float
    validation_loss: float
    accuracy: float

    @property
    def figure(self) -> float:
        """The accuracy."""
        return self.accuracy


@dataclass
class Outcome:
    """What was learnt: the best epoch's model, and how it came about.

    `confusion` counts validation examples, int64 [K, K], row: true class, column: best label. `seconds` are those of
    the features and of training.
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
    report: Report = lambda progress: None,
    work: Path | None = None,
) -> Outcome:
    """Train a classifier of `data.labels` on a backbone, which is left as it was.

    `work` is a folder for a checkpoint after each epoch; where it holds one of the same run, training goes on from
    there. KeyboardInterrupt after the first epoch ends the training and keeps the best so far; before, it is raised.

    Raises DataError (bad_data; checkpoint_mismatch for the checkpoint of another run) and ValueError (options.freeze).
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
    inputs = _Inputs(data, base, published, model, options, device, fingerprint)
    training, validation = inputs.sources(report)
    between = time.perf_counter()
    identity = loop.identity(data.fingerprint(), options.model_dump(mode="json"), fingerprint)
    learner = _Learner(model, inputs, training, validation, data, options)
    course = loop.run(learner, options.epochs, report, work, identity)
    end = time.perf_counter()
    model.load_state_dict(course.best_tensors)
    model.eval()
    logits = _logits(inputs, validation, len(data.validation))
    truth = _labels(data.validation, device)
    k = len(data.labels)
    confusion = torch.bincount(truth * k + logits.argmax(1), minlength=k * k).reshape(k, k).cpu()
    top5 = (logits.topk(min(5, k), 1).indices == truth[:, None]).any(1).float().mean().item()
    seconds = {"features": between - start, "training": end - between}
    return Outcome(
        model, data.labels, course.epochs, course.best, confusion, course.interrupted, inputs.cached, seconds, top5
    )


class _Inputs:
    """The line between what is computed once and what is trained: after the frozen stages, or after pooling even."""

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
        # Without trained stages and without a convolution of its own, the head begins with the pooled features.
        self._pooled = not len(model.stages) and model.head.conv is None
        with torch.no_grad():
            shape = self.fixed(torch.zeros(1, 3, base.crop, base.crop, device=device)).shape
        self.cached = options.cache and model.frozen > 0 and math.prod(shape) <= KEPT_VALUES

    def fixed(self, pixels: Tensor) -> Tensor:
        """What is not trained: normalised float [N, 3, H, W] to what `trained` takes."""
        maps = stages.run(self._prefix, pixels)
        # Pooled in all ways, [N, 3, C]: another kind of pooling is then another head on what is kept, and no new pass.
        return torch.stack([pool(maps, kind) for kind in POOLS], 1) if self._pooled else maps

    def trained(self, x: Tensor) -> Tensor:
        """What is trained: logits [N, K]."""
        if self._pooled:
            return self._model.head.classify(x[:, POOLS.index(self._model.head.spec.pool)])
        return torch.as_tensor(self._model.head(self._model.tail(x)))

    def sources(self, report: Report) -> tuple[features.Source, features.Source]:
        """Where training and validation examples come from. Raises DataError (bad_data)."""
        training, validation = self._data.training, self._data.validation
        centre = features.centre(self._base)
        if not self.cached:
            # Nothing is kept, so that each photo is looked at now: better than in the middle of an epoch.
            self._require_readable()
        varied = self._options.augment
        kept = [*(() if varied else training), *validation] if self.cached else []
        done = 0

        def seen(more: int) -> None:
            nonlocal done
            done += more
            report(Progress("features", done, len(kept)))

        def live(samples: Sequence[Any], view: features.View) -> features.Source:
            return features.Live(samples, self._base, self.fixed, self._device, view)

        def keep(samples: Sequence[Any]) -> features.Source:
            part = f"{self._model.frozen} {' '.join(POOLS) if self._pooled else 'map'}"
            folder = features.cache_folder(self._fingerprint, self._base, part)
            return features.keep(samples, self._base, self.fixed, self._device, folder, seen)

        if varied:
            first = live(training, augment.views(self._base, self._options.seed))
        else:
            first = keep(training) if self.cached else live(training, centre)
        return first, keep(validation) if self.cached else live(validation, centre)

    def _require_readable(self) -> None:
        problems = dataset.unreadable((*self._data.training, *self._data.validation))
        if problems:
            raise dataset.bad_data(tuple(problems))


class _Learner(loop.Descent):
    """Cross-entropy, over a head and the stages before it."""

    epoch_type = Epoch

    def __init__(
        self,
        model: TunedClassifier,
        inputs: _Inputs,
        training: features.Source,
        validation: features.Source,
        data: Dataset,
        options: Options,
    ) -> None:
        self._model, self._inputs = model, inputs
        self._training, self._validation = training, validation
        self._options = options
        device = next(model.parameters()).device
        self._labels, self._truth = _labels(data.training, device), _labels(data.validation, device)
        super().__init__(model, model.head.parameters(), model.stages.parameters(), options.lr)
        self.steps = math.ceil(len(self._labels) / options.batch)

    def train(self, epoch: int, total: int, told: Callable[[int, float], None]) -> Epoch:
        """As in loop.Learner."""
        options, count = self._options, len(self._labels)
        loop.seed_epoch(options.seed, epoch)
        order = random.Random(f"{options.seed} {epoch}").sample(range(count), count)
        self._model.train()
        sum_of_losses = 0.0
        for step in range(self.steps):
            places = order[step * options.batch : (step + 1) * options.batch]
            if len(places) == 1 and count > 1:
                # Batch statistics of one example are none; it has its turn in another epoch.
                continue
            loss = F.cross_entropy(self._inputs.trained(self._training.rows(places, epoch)), self._labels[places])
            value = self.descend(loss, epoch, step, total)
            sum_of_losses += value * len(places)
            told(step + 1, value)
        return self._judge(sum_of_losses / count)

    def _judge(self, loss: float) -> Epoch:
        self._model.eval()
        logits = _logits(self._inputs, self._validation, len(self._truth))
        accuracy = (logits.argmax(1) == self._truth).float().mean().item()
        return Epoch(loss, F.cross_entropy(logits, self._truth).item(), accuracy)

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """By accuracy, then by loss."""
        return (one.accuracy, -one.validation_loss) > (other.accuracy, -other.validation_loss)


@torch.no_grad()
def _logits(inputs: _Inputs, source: features.Source, count: int) -> Tensor:
    """Logits of all examples of a source, float [count, K]; `inputs`' model is in eval mode."""
    size = 64
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return torch.cat([inputs.trained(source.rows(chunk, 0)) for chunk in chunks])


def _labels(samples: Sequence[Any], device: torch.device) -> Tensor:
    return torch.tensor([sample.label for sample in samples], device=device)
