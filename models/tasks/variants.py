"""The models of one task: its own, and the fine-tuned ones over the same network, by name."""

from typing import Generic, Protocol, TypeVar

from foursight.models.errors import OptionError
from foursight.models.results import Card
from foursight.schema.options import ModelOptions


class Variant(Protocol):
    """One model of a task, as that task has it."""

    @property
    def card(self) -> Card:
        """What it says of itself."""


V = TypeVar("V", bound=Variant)


class Variants(Generic[V]):
    """A task's models. Reading and changing them from several threads is safe: each is one operation on a dict."""

    def __init__(self, published: V) -> None:
        self._published = published
        self._tuned: dict[str, V] = {}

    def add(self, variant: V) -> None:
        """Have a model, in the place of one of its name."""
        self._tuned[variant.card.name] = variant

    def remove(self, name: str) -> None:
        """Have it no longer; options that hold on to it are still answered by it."""
        self._tuned.pop(name, None)

    def cards(self) -> list[Card]:
        """The fine-tuned ones; what they weigh is their own part alone."""
        return [variant.card for variant in list(self._tuned.values())]

    def pin(self, options: ModelOptions) -> V:
        """Find the model that options name, and let them hold on to it. Raises OptionError (unknown_model)."""
        options.pin(self._find(options.model))
        return self.of(options)

    def of(self, options: ModelOptions) -> V:
        """The model that options hold on to, or name."""
        pinned = options.pinned()
        return pinned if isinstance(pinned, type(self._published)) else self._find(options.model)

    def _find(self, name: str | None) -> V:
        if name is None or name == self._published.card.name:
            return self._published
        variant = self._tuned.get(name)
        if variant is None:
            there = ", ".join([self._published.card.name, *sorted(self._tuned)])
            raise OptionError("unknown_model", f"There is no model {name!r} for this task.", f"There are: {there}.")
        return variant
