"""Transfer learning for classification: a new head, and as many stages of the backbone as are wanted, on one's own set.

    photos -> frozen stages (once, kept on disk) -> trained stages (if any) -> head -> cross-entropy

The first stages of a convolutional network carry over to other tasks (Yosinski et al., "How transferable are features
in deep neural networks?", 2014), so a few dozen photos of a class are enough for the rest.
"""

import hashlib
import json
import math
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import devices, stages, store, tuned
from foursight.models.backbone import Backbone
from foursight.models.errors import DataError, StoreError
from foursight.models.head import POOLS, ClassifierHead, HeadSpec, pool
from foursight.models.training import augment, dataset, features
from foursight.models.training.dataset import Dataset
from foursight.models.tuned import TunedClassifier

WEIGHT_DECAY = 0.01
WARM_UP = 0.1
# Pretrained stages are to be adjusted, and a new head is to be learnt.
STAGES_RATE = 0.1
# A map with more values than this costs more to read than the stages before it to compute.
KEPT_VALUES = 100_000
CHECKPOINT = "checkpoint.pt"


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


@dataclass(frozen=True)
class Progress:
    """How far a phase is: "features" counts photos, "training" steps; with the figures so far."""

    phase: str
    done: int
    total: int
    loss: float | None = None
    epochs: tuple[Epoch, ...] = ()


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


@dataclass
class _State:
    """Where training stands after an epoch: all that it takes to go on."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)


def finetune(
    data: Dataset,
    base: Backbone,
    options: Options,
    device: torch.device,
    report: Callable[[Progress], None] = lambda progress: None,
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
    devices.place(base.network, device)
    torch.manual_seed(options.seed)
    head = ClassifierHead(options.head, tuned.channels(published), len(data.labels))
    model = TunedClassifier(published, frozen, head)
    devices.place(model, device)
    start = time.perf_counter()
    inputs = _Inputs(data, base, published, model, options, device, fingerprint)
    training, validation = inputs.sources(report)
    between = time.perf_counter()
    identity = _identity(data, options, fingerprint)
    state, interrupted = _fit(model, inputs, training, validation, data, options, report, work, identity)
    end = time.perf_counter()
    model.load_state_dict(state.best_tensors)
    model.eval()
    logits = _logits(inputs, validation, len(data.validation))
    truth = _labels(data.validation, device)
    k = len(data.labels)
    confusion = torch.bincount(truth * k + logits.argmax(1), minlength=k * k).reshape(k, k).cpu()
    top5 = (logits.topk(min(5, k), 1).indices == truth[:, None]).any(1).float().mean().item()
    seconds = {"features": between - start, "training": end - between}
    return Outcome(model, data.labels, state.epochs, state.best, confusion, interrupted, inputs.cached, seconds, top5)


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

    def sources(self, report: Callable[[Progress], None]) -> tuple[features.Source, features.Source]:
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


def _fit(
    model: TunedClassifier,
    inputs: _Inputs,
    training: features.Source,
    validation: features.Source,
    data: Dataset,
    options: Options,
    report: Callable[[Progress], None],
    work: Path | None,
    identity: str,
) -> tuple[_State, bool]:
    """AdamW (Loshchilov and Hutter 2019) on a cosine with a warm-up; gives the state and whether it was interrupted."""
    optimizer = _optimizer(model, options)
    state = _resume(model, optimizer, work, identity)
    labels = _labels(data.training, next(model.parameters()).device)
    per_epoch = math.ceil(len(labels) / options.batch)
    total = per_epoch * options.epochs
    try:
        for epoch in range(len(state.epochs), options.epochs):
            # Each epoch draws from its own seed, so that one that is resumed draws the same.
            torch.manual_seed(options.seed * 1_000_003 + epoch)
            order = random.Random(f"{options.seed} {epoch}").sample(range(len(labels)), len(labels))
            model.train()
            sum_of_losses = 0.0
            for step in range(per_epoch):
                places = order[step * options.batch : (step + 1) * options.batch]
                if len(places) == 1 and len(order) > 1:
                    # Batch statistics of one example are none; it has its turn in another epoch.
                    continue
                _set_rate(optimizer, (epoch * per_epoch + step) / total)
                loss = F.cross_entropy(inputs.trained(training.rows(places, epoch)), labels[places])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                sum_of_losses += loss.item() * len(places)
                report(Progress("training", epoch * per_epoch + step + 1, total, loss.item(), tuple(state.epochs)))
            _judge(model, inputs, validation, data, sum_of_losses / len(labels), state)
            report(Progress("training", (epoch + 1) * per_epoch, total, state.epochs[-1].loss, tuple(state.epochs)))
            _save(model, optimizer, state, work, identity)
    except KeyboardInterrupt:
        if not state.epochs:
            raise
        return state, True
    return state, False


def _judge(
    model: TunedClassifier, inputs: _Inputs, validation: features.Source, data: Dataset, loss: float, state: _State
) -> None:
    """Validate, and keep the tensors where they are the best so far: by accuracy, then by loss."""
    model.eval()
    logits = _logits(inputs, validation, len(data.validation))
    truth = _labels(data.validation, logits.device)
    value = F.cross_entropy(logits, truth).item()
    found = Epoch(loss, value, (logits.argmax(1) == truth).float().mean().item())
    best = state.epochs[state.best] if state.epochs else None
    if best is None or (found.accuracy, -found.validation_loss) > (best.accuracy, -best.validation_loss):
        # An interruption may come anywhere: an epoch that counts has its tensors.
        state.best_tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        state.best = len(state.epochs)
    state.epochs.append(found)


@torch.no_grad()
def _logits(inputs: _Inputs, source: features.Source, count: int) -> Tensor:
    """Logits of all examples of a source, float [count, K]; `inputs`' model is in eval mode."""
    size = 64
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return torch.cat([inputs.trained(source.rows(chunk, 0)) for chunk in chunks])


def _labels(samples: Sequence[Any], device: torch.device) -> Tensor:
    return torch.tensor([sample.label for sample in samples], device=device)


def _optimizer(model: TunedClassifier, options: Options) -> torch.optim.Optimizer:
    groups = [{"params": list(model.head.parameters()), "lr": options.lr, "largest": options.lr}]
    trained = list(model.stages.parameters())
    if trained:
        rate = STAGES_RATE * options.lr
        groups.append({"params": trained, "lr": rate, "largest": rate})
    return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)


def _set_rate(optimizer: torch.optim.Optimizer, done: float) -> None:
    """The learning rates when this share of all steps is done."""
    share = done / WARM_UP if done < WARM_UP else (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    for group in optimizer.param_groups:
        group["lr"] = group["largest"] * max(share, 0.01)


def _identity(data: Dataset, options: Options, fingerprint: str) -> str:
    """What must be the same for a checkpoint to be gone on from."""
    what = [data.fingerprint(), options.model_dump(mode="json"), fingerprint]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _resume(model: TunedClassifier, optimizer: torch.optim.Optimizer, work: Path | None, identity: str) -> _State:
    path = work / CHECKPOINT if work is not None else None
    if path is None or not path.exists():
        return _State()
    kept = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    if kept["identity"] != identity:
        raise DataError(
            "checkpoint_mismatch",
            "The checkpoint is of a run with other data, options or backbone.",
            "Give the same ones to go on, or leave out --resume to begin again.",
        )
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return _State([Epoch(**row) for row in kept["epochs"]], kept["best"], kept["best_tensors"])


def _save(
    model: TunedClassifier, optimizer: torch.optim.Optimizer, state: _State, work: Path | None, identity: str
) -> None:
    if work is None:
        return
    work.mkdir(parents=True, exist_ok=True)
    kept = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": [asdict(epoch) for epoch in state.epochs],
        "best": state.best,
        "best_tensors": state.best_tensors,
    }
    out = BytesIO()
    torch.save(kept, out)
    # A kill in the middle of writing leaves the checkpoint before it.
    new = work / f"{CHECKPOINT}.new"
    new.write_bytes(out.getvalue())
    new.replace(work / CHECKPOINT)


def work_folder(folder: Path) -> Path:
    """Where the run that makes the model `folder` keeps its checkpoint: beside it, under a name no model can have."""
    return folder.parent / f".{folder.name}.training"


def prepare_work(folder: Path, *, resume: bool, replace: bool) -> Path:
    """The work folder for a model's folder, emptied unless the run is to be resumed.

    Raises StoreError (model_exists; unknown_model where there is nothing to resume).
    """
    store.check_name(folder.name)
    work = work_folder(folder)
    if resume and not (work / CHECKPOINT).exists():
        raise StoreError(
            "unknown_model", f"There is no run of {folder.name!r} to resume.", "Leave out --resume to begin one."
        )
    if folder.exists() and not (replace or resume):
        raise StoreError(
            "model_exists", f"There is a model {folder.name!r} already.", "Choose another name, or add --replace."
        )
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    return work


def clean_up(work: Path, outcome: Outcome) -> None:
    """Remove the checkpoint of a run that came to its end."""
    if not outcome.interrupted:
        shutil.rmtree(work, ignore_errors=True)
