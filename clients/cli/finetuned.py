"""A fine-tuned model that a command loads itself, by its name in the models folder or by its path."""

import os
from dataclasses import dataclass
from pathlib import Path

from foursight.models.errors import StoreError
from foursight.models.finetuned import store


@dataclass(frozen=True)
class FineTuned:
    """The name, folder and task of a fine-tuned model."""

    name: str
    folder: Path
    task: str


def find(model: str, models_dir: Path | None = None) -> FineTuned:
    """Find a model. A value with a path separator is a path, anything else a name in the models folder.

    Without `models_dir`, the models folder is $FOURSIGHT_MODELS_DIR or the server's default. Raises StoreError
    (invalid_model_name, unknown_model, model_corrupt).
    """
    root = models_dir or store.default_folder()
    folder = Path(model).expanduser().absolute() if os.sep in model else root / store.check_name(model)
    name = store.check_name(folder.name)
    if not (folder / store.SPEC).is_file():
        there = ", ".join(store.names(folder.parent)) or "none"
        raise StoreError("unknown_model", f"There is no model {name!r} in {folder.parent}.", f"Models there: {there}.")
    return FineTuned(name, folder, store.read_spec(name, folder).task)
