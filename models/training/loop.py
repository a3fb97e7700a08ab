"""The training loop: epochs, a checkpoint after each epoch, and the best epoch's tensors.

An interrupted run can be resumed, and then ends with the same model as an uninterrupted one.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from foursight.models.training import checkpoints

WARM_UP = 0.1
WEIGHT_DECAY = 0.01
# Pretrained parameters need smaller steps than new ones, which start from scratch.
PRETRAINED_RATE = 0.1


class Epoch(Protocol):
    """The figures of an epoch: a dataclass of numbers."""

    @property
    def loss(self) -> float:
        """The mean training loss."""

    @property
    def figure(self) -> float | None:
        """The validation figure to show, in 0..1; None if validation is not measured after each epoch."""


E = TypeVar("E", bound=Epoch)


class Learner(Protocol[E]):
    """What `run` trains. `epoch_type` is the dataclass of its epochs; `steps` is the number of steps in an epoch."""

    epoch_type: type[E]

    @property
    def steps(self) -> int: ...

    def train(self, epoch: int, epochs: int, on_step: Callable[[int, float], None]) -> E:
        """Train epoch `epoch` of `epochs`. Calls `on_step` with the steps done and the last loss."""

    def is_better(self, one: E, other: E) -> bool:
        """Return whether epoch `one` beats the earlier epoch `other`."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors of the model."""

    def state(self) -> dict[str, Any]:
        """Return everything needed to continue after an epoch, as torch.save takes it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""


@dataclass(frozen=True)
class Progress:
    """Progress of a phase: "features" counts images, "training" counts steps."""

    phase: str
    done: int
    total: int
    loss: float | None = None
    epochs: tuple[Epoch, ...] = ()


OnProgress = Callable[[Progress], None]


@dataclass
class TrainingState(Generic[E]):
    """The epochs trained so far, the index of the best one, and its tensors."""

    epochs: list[E] = field(default_factory=list)
    best: int = 0
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    interrupted: bool = False


def run(
    learner: Learner[E], epochs: int, on_progress: OnProgress, work: Path | None, identity: str, *, saves: bool = True
) -> TrainingState[E]:
    """Train for `epochs` epochs, or until KeyboardInterrupt, which is raised again only during the first epoch.

    `work` is the folder of the checkpoint; if it holds one, training continues from there. With `saves` False another
    process writes it. Raises DataError (checkpoint_mismatch) if the checkpoint has another identity.
    """
    state = _resume(learner, work, identity)
    total = learner.steps * epochs
    try:
        for epoch in range(len(state.epochs), epochs):

            def on_step(done: int, loss: float, epoch: int = epoch) -> None:
                on_progress(Progress("training", epoch * learner.steps + done, total, loss, tuple(state.epochs)))

            found = learner.train(epoch, epochs, on_step)
            if not state.epochs or learner.is_better(found, state.epochs[state.best]):
                # Before `epochs` grows: an interruption between the two must not leave an epoch without its tensors.
                state.best_tensors = {name: value.detach().clone() for name, value in learner.tensors().items()}
                state.best = len(state.epochs)
            state.epochs.append(found)
            on_progress(Progress("training", (epoch + 1) * learner.steps, total, None, tuple(state.epochs)))
            if saves and work is not None:
                checkpoints.save(work, identity, _content(learner, state))
    except KeyboardInterrupt:
        if not state.epochs:
            raise
        state.interrupted = True
    return state


def _content(learner: Learner[E], state: TrainingState[E]) -> dict[str, Any]:
    return {
        "learner": learner.state(),
        "epochs": [asdict(epoch) for epoch in state.epochs],  # type: ignore[call-overload]
        "best": state.best,
        "best_tensors": state.best_tensors,
    }


def _resume(learner: Learner[E], work: Path | None, identity: str) -> TrainingState[E]:
    content = None if work is None else checkpoints.load(work, identity)
    if content is None:
        return TrainingState()
    learner.restore(content["learner"])
    epochs = [learner.epoch_type(**row) for row in content["epochs"]]
    return TrainingState(epochs, content["best"], content["best_tensors"])


class AdamWLearner(ABC, Generic[E]):
    """Trains one module with AdamW (Loshchilov and Hutter 2019), a linear warm-up and a cosine decay.

    `new` parameters get the learning rate `lr`, `pretrained` ones PRETRAINED_RATE of it. Subclasses define the loss of
    a batch and the validation. Batches with fewer than `smallest_batch` examples are skipped.
    """

    epoch_type: type[E]
    smallest_batch = 1

    def __init__(
        self,
        module: nn.Module,
        new: Iterable[nn.Parameter],
        pretrained: Iterable[nn.Parameter],
        *,
        examples: int,
        lr: float,
        batch: int,
        seed: int,
    ) -> None:
        self._module = module
        self._examples, self._batch, self._seed = examples, batch, seed
        groups = [{"params": list(new), "lr": lr, "largest": lr}]
        others = list(pretrained)
        if others:
            groups.append({"params": others, "lr": PRETRAINED_RATE * lr, "largest": PRETRAINED_RATE * lr})
        self._optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        self.steps = math.ceil(examples / batch)

    @abstractmethod
    def batch_loss(self, rows: list[int], epoch: int) -> Tensor:
        """Return the mean loss over the examples with these indices; the module is in training mode."""

    @abstractmethod
    def validate(self, loss: float) -> E:
        """Return the figures of an epoch with this mean training loss."""

    @abstractmethod
    def is_better(self, one: E, other: E) -> bool:
        """As in Learner."""

    def train(self, epoch: int, epochs: int, on_step: Callable[[int, float], None]) -> E:
        """As in Learner."""
        # One seed per epoch, so that a resumed epoch draws the same numbers.
        torch.manual_seed(self._seed * 1_000_003 + epoch)
        order = self.order(epoch)
        self._module.train()
        loss_sum, seen = 0.0, 0
        for step in range(self.steps):
            rows = order[step * self._batch : (step + 1) * self._batch]
            if len(rows) < min(self.smallest_batch, self._examples):
                continue
            loss = self._step(self.batch_loss(rows, epoch), (epoch * self.steps + step) / (epochs * self.steps))
            loss_sum, seen = loss_sum + loss * len(rows), seen + len(rows)
            on_step(step + 1, loss)
        self._module.eval()
        return self.validate(loss_sum / seen)

    def order(self, epoch: int) -> list[int]:
        """Return the indices of all examples in the order of an epoch."""
        return random.Random(f"{self._seed} {epoch}").sample(range(self._examples), self._examples)

    def _step(self, loss: Tensor, done: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = group["largest"] * learning_rate(done)
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


def learning_rate(done: float) -> float:
    """Return the learning rate, relative to the largest, after the share `done` of all steps."""
    relative = done / WARM_UP if done < WARM_UP else (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))) / 2
    return max(relative, 0.01)
