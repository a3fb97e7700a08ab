"""The gateway's side: changes the list of served models while the server runs, and notifies all workers.

A request names a model, never a path: its files are in the models folder, or at a path given when the server started.
"""

import asyncio
from collections.abc import Sequence

from foursight.schema import ModelCard
from foursight.serving.errors import ApiError
from foursight.serving.finetuned import served_models
from foursight.serving.finetuned.served_models import Entry
from foursight.serving.settings import Settings
from foursight.serving.task_handles import TaskHandles

# A worker reads, checks and loads a few hundred megabytes at most, between batches.
LOAD_TIMEOUT_S = 120.0


class ModelManager:
    """The only writer of the list while the server runs."""

    def __init__(self, settings: Settings, handles: TaskHandles) -> None:
        self._settings = settings
        self._handles = handles
        # The list as it is in the file, so that no request waits for a disk.
        self._entries = served_models.read(settings)
        self._lock = asyncio.Lock()

    def task_of(self, name: str) -> str | None:
        """Return the task of a fine-tuned model that is served."""
        entry = self._entries.get(name)
        return entry.task if entry else None

    async def load(self, name: str, builtin: Sequence[str]) -> None:
        """Serve a model, read again from its folder; if a worker rejects it, everything stays as it was.

        Raises StoreError (invalid_model_name, unknown_model, model_corrupt) and ApiError (builtin_model,
        model_mismatch, model_corrupt, unavailable).
        """
        _require_fine_tuned(name, builtin)
        async with self._lock:
            entry = await asyncio.to_thread(served_models.inspect, self._settings, name)
            if entry.task not in self._settings.tasks:
                served = ", ".join(self._settings.tasks)
                raise ApiError(
                    "model_mismatch", f"The model {name!r} is for the task {entry.task}.", f"Tasks here: {served}."
                )
            before = self._entries
            await self._write(before | {name: entry})
            results = await self._sync(entry.task)
            rejections = [rejected[name] for rejected in results if name in rejected]
            if rejections or not results:
                await self._write(before)
                await self._sync(entry.task)
            if rejections:
                raise ApiError(*rejections[0])
            if not results:
                raise ApiError("unavailable", f"No worker of {entry.task} answers.", "Try again in a few seconds.")
            await self._handles.broadcast(entry.task, "settle_models")

    async def unload(self, name: str, cards: Sequence[ModelCard]) -> None:
        """Stop serving a model; its folder stays. Raises ApiError (builtin_model, unknown_model)."""
        _require_fine_tuned(name, [card.name for card in cards if not card.finetuned])
        async with self._lock:
            before = self._entries
            if name not in before:
                raise unknown_model(name, cards)
            await self._write({other: entry for other, entry in before.items() if other != name})
            await self._sync(before[name].task)

    async def _write(self, entries: dict[str, Entry]) -> None:
        await asyncio.to_thread(served_models.write, self._settings, entries)
        self._entries = entries

    async def _sync(self, task: str) -> list[dict[str, tuple[str, str, str]]]:
        return await self._handles.broadcast(task, "sync_models", timeout_s=LOAD_TIMEOUT_S)


def unknown_model(name: str, cards: Sequence[ModelCard]) -> ApiError:
    """Return the error for a model that is not served, with the names of those that are."""
    there = ", ".join(dict.fromkeys(card.name for card in cards))
    return ApiError("unknown_model", f"There is no model {name!r} here.", f"Models here: {there}.")


def _require_fine_tuned(name: str, builtin: Sequence[str]) -> None:
    if name in builtin:
        raise ApiError("builtin_model", f"{name!r} is a built-in model.", "Choose the name of a fine-tuned model.")
