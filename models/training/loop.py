"""The loop of all training: epochs, a checkpoint after each, the best of them kept, interruptions that lose nothing."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from foursight.models.errors import DataError, StoreError
from foursight.models.finetuned import store

CHECKPOINT = "checkpoint.pt"
WARM_UP = 0.1
WEIGHT_DECAY = 0.01
# What is pretrained is to be adjusted, and what is new to be learnt.
PRETRAINED_RATE = 0.1


class Epoch(Protocol):
    """The figures after an epoch, a dataclass of numbers; `figure` is the one to be told, in 0..1, if there is one."""

    @property
    def loss(self) -> float:
        """The mean over the epoch."""

    @property
    def figure(self) -> float | None:
        """What validation says."""


E = TypeVar("E", bound=Epoch)


class Learner(Protocol[E]):
    """What is trained. `epoch_type` is the dataclass of an epoch's figures, `steps` the number of steps of an epoch."""

    epoch_type: type[E]
    steps: int

    def train(self, epoch: int, total: int, told: Callable[[int, float], None]) -> E:
        """Train epoch `epoch` of `total`, and give its figures; `told` is given the steps done, and the last's loss."""

    def is_better(self, one: E, other: E) -> bool:
        """Whether the first epoch's model is to be kept rather than the second's, which was before it."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The model."""

    def state(self) -> dict[str, Any]:
        """All that it takes to go on after an epoch, as torch.save takes it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""


class Descent:
    """What learners have in common that train one module by AdamW (Loshchilov and Hutter 2019), warm-up and cosine.

    `new` parameters begin from nothing; `pretrained` ones take PRETRAINED_RATE of the largest learning rate.
    """

    steps: int

    def __init__(
        self, module: nn.Module, new: Iterable[nn.Parameter], pretrained: Iterable[nn.Parameter], lr: float
    ) -> None:
        self._module = module
        groups = [{"params": list(new), "lr": lr, "largest": lr}]
        others = list(pretrained)
        if others:
            rate = PRETRAINED_RATE * lr
            groups.append({"params": others, "lr": rate, "largest": rate})
        self._optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def descend(self, loss: Tensor, epoch: int, step: int, total: int) -> float:
        """Take a step down, the so-and-so-many-th of an epoch of `total`; gives the loss."""
        set_rate(self._optimizer, (epoch * self.steps + step) / (total * self.steps))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item()

    def tensors(self) -> dict[str, Tensor]:
        """As in Learner."""
        return self._module.state_dict()

    def state(self) -> dict[str, Any]:
        """As in Learner."""
        return {"model": self._module.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """As in Learner."""
        self._module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def seed_epoch(seed: int, epoch: int) -> None:
    """Draw from a seed of the epoch's own, so that one that is resumed draws the same."""
    torch.manual_seed(seed * 1_000_003 + epoch)


@dataclass(frozen=True)
class Progress:
    """How far a phase is: "features" counts photos, "training" steps; with the figures so far."""

    phase: str
    done: int
    total: int
    loss: float | None = None
    epochs: tuple[Epoch, ...] = ()


Report = Callable[[Progress], None]


@dataclass
class Course(Generic[E]):
    """Where training stands after an epoch: the figures of all, which was the best, and its model."""

    epochs: list[E] = field(default_factory=list)
    best: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    interrupted: bool = False


def run(
    learner: Learner[E], epochs: int, report: Report, work: Path | None, identity: str, *, saves: bool = True
) -> Course[E]:
    """Train for so many epochs, or until an interruption after the first; before it, KeyboardInterrupt is raised.

    `work` is a folder for a checkpoint after each epoch, which another process writes if not `saves`; where it holds
    one, training goes on from there. Raises DataError (checkpoint_mismatch) for one whose identity is another.
    """
    course = _resume(learner, work, identity)
    total = learner.steps * epochs
    try:
        for epoch in range(len(course.epochs), epochs):

            def told(done: int, loss: float, epoch: int = epoch) -> None:
                report(Progress("training", epoch * learner.steps + done, total, loss, tuple(course.epochs)))

            found = learner.train(epoch, epochs, told)
            if not course.epochs or learner.is_better(found, course.epochs[course.best]):
                # An interruption may come anywhere: an epoch that counts has its tensors.
                course.best_tensors = {name: value.detach().clone() for name, value in learner.tensors().items()}
                course.best = len(course.epochs)
            course.epochs.append(found)
            report(Progress("training", (epoch + 1) * learner.steps, total, None, tuple(course.epochs)))
            if saves:
                _save(learner, course, work, identity)
    except KeyboardInterrupt:
        if not course.epochs:
            raise
        course.interrupted = True
    return course


def rate(done: float) -> float:
    """The share of the largest learning rate when this share of all steps is done: a warm-up, then a cosine."""
    share = done / WARM_UP if done < WARM_UP else (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    return max(share, 0.01)


def set_rate(optimizer: torch.optim.Optimizer, done: float) -> None:
    """Set the rates of groups that have a `largest` one, when this share of all steps is done."""
    for group in optimizer.param_groups:
        group["lr"] = group["largest"] * rate(done)


def identity(*what: object) -> str:
    """What must be the same for a checkpoint to be gone on from, as a SHA-256."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _resume(learner: Learner[E], work: Path | None, identity: str) -> Course[E]:
    path = work / CHECKPOINT if work is not None else None
    if path is None or not path.exists():
        return Course()
    kept = torch.load(path, weights_only=True)
    if kept["identity"] != identity:
        raise DataError(
            "checkpoint_mismatch",
            "The checkpoint is of a run with other data, options or backbone.",
            "Give the same ones to go on, or leave out --resume to begin again.",
        )
    learner.restore(kept["learner"])
    return Course([learner.epoch_type(**row) for row in kept["epochs"]], kept["best"], kept["best_tensors"])


def _save(learner: Learner[E], course: Course[E], work: Path | None, identity: str) -> None:
    if work is None:
        return
    work.mkdir(parents=True, exist_ok=True)
    epochs = [asdict(epoch) for epoch in course.epochs]  # type: ignore[call-overload]
    kept = {
        "identity": identity,
        "learner": learner.state(),
        "epochs": epochs,
        "best": course.best,
        "best_tensors": course.best_tensors,
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


def clean_up(work: Path, *, interrupted: bool) -> None:
    """Remove the checkpoint of a run that came to its end."""
    if not interrupted:
        shutil.rmtree(work, ignore_errors=True)
