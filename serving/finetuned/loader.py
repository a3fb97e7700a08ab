"""The worker's side: loads and removes fine-tuned models to match the list, without interrupting requests."""

import threading
from collections.abc import Callable
from pathlib import Path

from foursight.models.catalogue import SupportsFineTuned, Task
from foursight.models.errors import ModelError, StoreError
from foursight.models.results import Card
from foursight.serving.finetuned import served_models
from foursight.serving.finetuned.served_models import Entry
from foursight.serving.logs import logger
from foursight.serving.settings import Settings


class ModelLoader:
    """The fine-tuned models of one worker's task."""

    def __init__(self, task_name: str, task: Task, settings: Settings) -> None:
        self._task_name = task_name
        self._task = task
        self._settings = settings
        self._entries: dict[str, Entry] = {}
        self._rejected: dict[str, tuple[Entry, ModelError]] = {}
        # What each new version replaced, and how to return to it: by then, the files may be those of the new version.
        self._replaced: dict[str, tuple[Entry, Callable[[], None]]] = {}
        self._lock = threading.Lock()

    def sync(self) -> dict[str, tuple[str, str, str]]:
        """Load and remove models until they match the list; return the rejected ones as {name: (code, detail, hint)}.

        If a new version is rejected, the old one keeps serving. If the list cannot be read, nothing changes.
        """
        with self._lock:
            try:
                listed = served_models.read(self._settings)
            except StoreError as unreadable:
                # A worker outlives the list: what is loaded keeps serving.
                logger.warning("%s", unreadable)
                return {}
            wanted = {name: entry for name, entry in listed.items() if entry.task == self._task_name}
            for name in self._entries.keys() - wanted.keys():
                self._host().remove(name)
                del self._entries[name]
            rejected: dict[str, tuple[Entry, ModelError]] = {}
            for name, entry in wanted.items():
                if self._entries.get(name) == entry or self._returned(name, entry):
                    continue
                before = self._rejected.get(name)
                error = before[1] if before and before[0] == entry else self._install(name, entry)
                if error is not None:
                    rejected[name] = (entry, error)
            self._rejected = rejected
            return {name: (error.code, error.detail, error.hint) for name, (_, error) in rejected.items()}

    def settle(self) -> None:
        """Forget the versions that were replaced: the list will not return to them."""
        with self._lock:
            self._replaced.clear()

    def cards(self) -> list[Card]:
        """Return the cards of the models that are served."""
        return self._task.finetuned_cards() if isinstance(self._task, SupportsFineTuned) else []

    def entry(self, name: str) -> Entry | None:
        """Return the entry of a model that is served."""
        return self._entries.get(name)

    def _install(self, name: str, entry: Entry) -> ModelError | None:
        try:
            undo = self._host().install(name, Path(entry.folder))
        except ModelError as error:
            logger.warning("%s", error)
            return error
        if name in self._entries:
            self._replaced[name] = self._entries[name], undo
        self._entries[name] = entry
        return None

    def _returned(self, name: str, entry: Entry) -> bool:
        """Return to the version that was replaced, if that is what the list names again."""
        replaced, undo = self._replaced.pop(name, (None, None))
        if undo is None or replaced != entry:
            return False
        undo()
        self._entries[name] = entry
        return True

    def _host(self) -> SupportsFineTuned:
        if not isinstance(self._task, SupportsFineTuned):
            raise StoreError(
                "model_mismatch",
                f"The task {self._task_name} does not support fine-tuned models.",
                "Choose a model for another task.",
            )
        return self._task
