"""A worker's fine-tuned models: what the registry says of its task, loaded and dropped without stopping for it."""

import logging
import threading
from pathlib import Path

from foursight.models.catalogue import SupportsFineTuned, Task
from foursight.models.errors import ModelError, StoreError
from foursight.models.results import Card
from foursight.serving import registry
from foursight.serving.registry import Entry
from foursight.serving.settings import Settings

logger = logging.getLogger("ray.serve")


class Hosting:
    """Keeps a task's models in line with the registry."""

    def __init__(self, name: str, task: Task, settings: Settings) -> None:
        self._name = name
        self._task = task
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._refused: dict[str, tuple[Entry, ModelError]] = {}
        self._lock = threading.Lock()

    def sync(self) -> dict[str, tuple[str, str, str]]:
        """Load and drop until it is as the registry says; gives what was refused, as (code, detail, hint) by name.

        A model that is refused leaves the one that had its name before where it is.
        """
        with self._lock:
            wanted = {n: entry for n, entry in registry.read(self._settings).items() if entry.task == self._name}
            for name in self._entries.keys() - wanted.keys():
                self._host().remove(name)
                del self._entries[name]
            refused = {}
            for name, entry in wanted.items():
                if self._entries.get(name) == entry:
                    continue
                before = self._refused.get(name)
                error = before[1] if before and before[0] == entry else self._install(name, entry)
                if error is not None:
                    refused[name] = (entry, error)
            self._refused = refused
            return {name: (error.code, error.detail, error.hint) for name, (_, error) in refused.items()}

    def cards(self) -> list[Card]:
        """The models that are served."""
        return self._task.finetuned_cards() if isinstance(self._task, SupportsFineTuned) else []

    def entry(self, name: str) -> Entry | None:
        """Where a model that is served was read from."""
        return self._entries.get(name)

    def _install(self, name: str, entry: Entry) -> ModelError | None:
        try:
            self._host().install(name, Path(entry.folder))
        except ModelError as error:
            logger.warning("%s", error)
            return error
        self._entries[name] = entry
        return None

    def _host(self) -> SupportsFineTuned:
        if not isinstance(self._task, SupportsFineTuned):
            raise StoreError(
                "model_mismatch", f"The task {self._name} serves no models but its own.", "Use a task that does."
            )
        return self._task
