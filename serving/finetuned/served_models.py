"""The list of fine-tuned models that a server serves: one JSON file in the models folder.

It is written when the server starts, and afterwards only by the gateway's ModelManager. Each worker's ModelLoader reads
it when it starts, when the gateway asks it to, and at each health check, so a worker that starts later serves the same
models as the others.
"""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from foursight.models.errors import StoreError
from foursight.models.finetuned import store
from foursight.serving.settings import Settings


@dataclass(frozen=True)
class Entry:
    """One model: its task, its folder, and a random `version`: a new one makes the workers load it again."""

    task: str
    folder: str
    version: str


_ENTRIES = TypeAdapter(dict[str, Entry])


def path(settings: Settings) -> Path:
    """Return the path of the list. Its name contains the port, because two servers may share a models folder."""
    return settings.models_dir / f".served-{settings.port}.json"


def read(settings: Settings) -> dict[str, Entry]:
    """Return the entries by model name; empty if the file does not exist. Raises StoreError (model_list_corrupt)."""
    file = path(settings)
    try:
        return _ENTRIES.validate_json(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        raise StoreError(
            "model_list_corrupt",
            f"The list of served models, {file.name}, cannot be read.",
            "The models that were loaded are still served. Restart the server, which writes the list again.",
        ) from None


def write(settings: Settings, entries: dict[str, Entry]) -> None:
    """Replace the file atomically."""
    file = path(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=2) + "\n")
    new.replace(file)


def remove(settings: Settings) -> None:
    """Delete the file when the server stops."""
    with suppress(OSError):
        path(settings).unlink()


def folder_of(settings: Settings, name: str) -> Path:
    """Return a model's folder: the one given by the setting `models`, or else the one in the models folder.

    Raises StoreError (invalid_model_name).
    """
    return settings.models.get(store.check_name(name), settings.models_dir / name)


def inspect(settings: Settings, name: str) -> Entry:
    """Return a new entry for a model, after checking that its files are complete.

    Whether the model fits the backbone is checked by the worker; this function does not import torch.

    Raises StoreError (invalid_model_name, unknown_model, model_corrupt).
    """
    folder = folder_of(settings, name)
    if not (folder / store.SPEC).is_file():
        there = ", ".join(sorted({*settings.models, *store.names(settings.models_dir)})) or "none"
        raise StoreError("unknown_model", f"There is no model {name!r} to load.", f"Models on disk: {there}.")
    spec = store.read_spec(name, folder)
    store.read_weights(name, folder, spec)
    return Entry(spec.task, str(folder), secrets.token_hex(8))
