"""The models of one task: the built-in one, and the fine-tuned ones over the same network, by name."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from foursight.models.errors import OptionError
from foursight.models.results import Card
from foursight.schema.options import ModelOptions


class Variant(Protocol):
    """One model of a task."""

    @property
    def card(self) -> Card:
        """Describe the model."""


O_co = TypeVar("O_co", covariant=True)
V_co = TypeVar("V_co", bound=Variant, covariant=True)
V = TypeVar("V", bound=Variant)


@dataclass(frozen=True)
class ResolvedRequest(Generic[O_co, V_co]):
    """A request's options and the model that they name.

    Resolved once, when the request arrives: a model that is replaced or removed afterwards still answers it.
    `revision` is never the same for two models of a process, even if they have the same name. `class_filter` has the
    class indices that are wanted, or None for all.
    """

    options: O_co
    model: V_co
    revision: int = 0
    class_filter: frozenset[int] | None = None

    @property
    def cache_key(self) -> Hashable:
        """Return what an answer to the same image depends on; it does not keep the model alive."""
        options: Any = self.options
        return self.revision, options.model_dump_json()


class Variants(Generic[V]):
    """A task's models. Safe to read and change from several threads: each operation is one operation on a dict."""

    def __init__(self, builtin: V) -> None:
        self._builtin = builtin
        self._finetuned: dict[str, tuple[int, V]] = {}
        self._revisions = count(1)

    def add(self, variant: V) -> Callable[[], None]:
        """Add or replace a model. Returns a function that undoes it."""
        name = variant.card.name
        before = self._finetuned.get(name)
        self._finetuned[name] = next(self._revisions), variant

        def undo() -> None:
            if before is None:
                self.remove(name)
            else:
                self._finetuned[name] = before

        return undo

    def remove(self, name: str) -> None:
        """Remove a model; requests that were resolved before are still answered by it."""
        self._finetuned.pop(name, None)

    def cards(self) -> list[Card]:
        """Return the cards of the fine-tuned models; they count only parameters and bytes that are not shared."""
        return [variant.card for _, variant in list(self._finetuned.values())]

    def resolve(self, options: ModelOptions) -> ResolvedRequest[Any, V]:
        """Find the model that options name. Raises OptionError (unknown_model)."""
        revision, variant = self._entry(options.model)
        return ResolvedRequest(options, variant, revision)

    def find(self, name: str | None) -> V:
        """Return a model by name, the built-in one for None. Raises OptionError (unknown_model)."""
        return self._entry(name)[1]

    def _entry(self, name: str | None) -> tuple[int, V]:
        if name is None or name == self._builtin.card.name:
            return 0, self._builtin
        entry = self._finetuned.get(name)
        if entry is None:
            known = ", ".join([self._builtin.card.name, *sorted(self._finetuned)])
            raise OptionError("unknown_model", f"There is no model {name!r} for this task.", f"Valid models: {known}.")
        return entry
