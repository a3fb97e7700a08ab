"""The models of one task: its own, and the fine-tuned ones over the same backbone, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from foursight.models import labels
from foursight.models.errors import OptionError
from foursight.models.options import ModelOptions
from foursight.models.results import Card
from foursight.models.tuned import TunedClassifier


@dataclass(frozen=True)
class Variant:
    """One model: `logits` maps what the task's backbone gives for N photos to float [N, K].

    `own` is what a fine-tuned model has for itself; None is the task's own model, whose labels have `wnids`.
    """

    card: Card
    logits: Callable[[Tensor], Tensor]
    own: TunedClassifier | None = None
    wnids: tuple[str, ...] | None = None

    @property
    def has_stages(self) -> bool:
        """Whether it sees photos with other eyes than the rest."""
        return self.own is not None and len(self.own.stages) > 0

    def chosen(self, classes: list[str] | None) -> frozenset[int] | None:
        """The class indices asked for; None: all. Raises OptionError (unknown_class)."""
        return None if classes is None else labels.ids_of(classes, self.card.labels, range(len(self.card.labels)))


class Variants:
    """A task's models. Reading and changing them from several threads is safe: each is one operation on a dict."""

    def __init__(self, published: Variant) -> None:
        self._published = published
        self._tuned: dict[str, Variant] = {}

    def add(self, variant: Variant) -> None:
        """Have a model, in the place of one of its name."""
        self._tuned[variant.card.name] = variant

    def remove(self, name: str) -> None:
        """Have it no longer; options that hold on to it are still answered by it."""
        self._tuned.pop(name, None)

    def cards(self) -> list[Card]:
        """The fine-tuned ones; what they weigh is their own part alone."""
        return [variant.card for variant in list(self._tuned.values())]

    def pin(self, options: ModelOptions) -> Variant:
        """Find the model that options name, and let them hold on to it. Raises OptionError (unknown_model)."""
        options.pin(self._find(options.model))
        return self.of(options)

    def of(self, options: ModelOptions) -> Variant:
        """The model that options hold on to, or name."""
        pinned = options.pinned()
        return pinned if isinstance(pinned, Variant) else self._find(options.model)

    def _find(self, name: str | None) -> Variant:
        if name is None or name == self._published.card.name:
            return self._published
        variant = self._tuned.get(name)
        if variant is None:
            there = ", ".join([self._published.card.name, *sorted(self._tuned)])
            raise OptionError("unknown_model", f"There is no model {name!r} for this task.", f"There are: {there}.")
        return variant
