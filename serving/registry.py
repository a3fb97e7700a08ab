"""Which fine-tuned models a server serves: one file in the models folder, and every worker brings itself in line.

The file is written by the front application (and once by who starts the server), and read by each worker when it is
told to, when it starts, and when its health is checked; so a worker that starts later serves what the others serve.
"""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from foursight.models.errors import StoreError
from foursight.models.finetuned import store
from foursight.serving.settings import Settings


@dataclass(frozen=True)
class Entry:
    """One model: its task, its folder, and when it was asked for: one that is asked for again is read anew."""

    task: str
    folder: str
    asked: str


def path(settings: Settings) -> Path:
    """The file; two servers may share a models folder, but not a port."""
    return settings.models_dir / f".served-{settings.port}.json"


def read(settings: Settings) -> dict[str, Entry]:
    """The models by name; none where there is no file."""
    try:
        rows = json.loads(path(settings).read_bytes())
    except FileNotFoundError:
        return {}
    return {name: Entry(**row) for name, row in rows.items()}


def write(settings: Settings, entries: dict[str, Entry]) -> None:
    """Replace the file, whole: a worker reads the one or the other."""
    file = path(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps({name: asdict(entry) for name, entry in entries.items()}, indent=2) + "\n")
    new.replace(file)


def remove(settings: Settings) -> None:
    """The server has ended."""
    with suppress(OSError):
        path(settings).unlink()


def folder_of(settings: Settings, name: str) -> Path:
    """Where a model lies: only what was named at the start lies elsewhere than in the models folder.

    Raises StoreError (invalid_model_name).
    """
    return settings.models.get(store.check_name(name), settings.models_dir / name)


def inspect(settings: Settings, name: str) -> Entry:
    """A new entry for a model whose files are whole.

    Raises StoreError (invalid_model_name, unknown_model, model_corrupt).

    Whether it fits the backbone is for the worker to say: nothing here needs torch.
    """
    folder = folder_of(settings, name)
    if not (folder / store.SPEC).is_file():
        there = ", ".join(sorted({*settings.models, *store.names(settings.models_dir)})) or "none"
        raise StoreError("unknown_model", f"There is no model {name!r} to load.", f"In the models folder: {there}.")
    spec = store.read_spec(name, folder)
    store.read_weights(name, folder, spec)
    return Entry(spec.task, str(folder), secrets.token_hex(8))
