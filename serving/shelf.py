"""Fine-tuned models taken up and put away while the server runs: the registry is changed, and all workers are told.

From the network a model is named, and no more: its files are those of the models folder, or of a path that was named
when the server was started.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve

from foursight.schema import ModelCard
from foursight.serving import registry
from foursight.serving.errors import ApiError
from foursight.serving.settings import Settings

TIMEOUT_S = 5.0
# A worker reads, checks and places some hundred megabytes at most, between batches.
LOAD_TIMEOUT_S = 120.0


class Shelf:
    """The one writer of the registry while the server runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()

    async def put(self, name: str, builtin: Sequence[str]) -> None:
        """Serve a model, read anew from its folder; where it is refused, all stays as it was.

        Raises StoreError (invalid_model_name, unknown_model, model_corrupt) and ApiError (builtin_model,
        model_mismatch, model_corrupt, unavailable).
        """
        _require_tuned(name, builtin)
        async with self._lock:
            entry = await asyncio.to_thread(registry.inspect, self._settings, name)
            if entry.task not in self._settings.tasks:
                served = ", ".join(self._settings.tasks)
                raise ApiError(
                    "model_mismatch", f"The model {name!r} is for the task {entry.task}.", f"Served here: {served}."
                )
            before = registry.read(self._settings)
            registry.write(self._settings, before | {name: entry})
            answers = await ask_workers(entry.task, "sync_models", LOAD_TIMEOUT_S)
            refused = [answer[name] for answer in answers if name in answer]
            if refused or not answers:
                registry.write(self._settings, before)
                await ask_workers(entry.task, "sync_models", LOAD_TIMEOUT_S)
            if refused:
                raise ApiError(*refused[0])
            if not answers:
                raise ApiError("unavailable", f"No worker of {entry.task} answers.", "Try again in a few seconds.")

    async def drop(self, name: str, cards: Sequence[ModelCard]) -> None:
        """Serve a model no longer; its folder stays. Raises ApiError (builtin_model, unknown_model)."""
        _require_tuned(name, [card.name for card in cards if not card.finetuned])
        async with self._lock:
            before = registry.read(self._settings)
            if name not in before:
                raise unknown_model(name, cards)
            registry.write(self._settings, {other: entry for other, entry in before.items() if other != name})
            await ask_workers(before[name].task, "sync_models", LOAD_TIMEOUT_S)


def unknown_model(name: str, cards: Sequence[ModelCard]) -> ApiError:
    """The refusal of a name that nothing has, with those there are."""
    there = ", ".join(dict.fromkeys(card.name for card in cards))
    return ApiError("unknown_model", f"There is no model {name!r} here.", f"There are: {there}.")


async def ask_workers(task: str, method: str, timeout_s: float = TIMEOUT_S) -> list[Any]:
    """What each replica of a task answers; of a task that is not there, or too slow, an empty list."""
    try:
        response = serve.get_app_handle(task).broadcast(method)
        results = await response.results_async(timeout_s=timeout_s, return_exceptions=True)
        return [result for result in results if not isinstance(result, BaseException)]
    except Exception:
        # Not there yet, restarting, or hanging: all the same to who asks.
        return []


def _require_tuned(name: str, builtin: Sequence[str]) -> None:
    if name in builtin:
        raise ApiError("builtin_model", f"{name!r} is a task's own model.", "Choose a name that is not taken.")
