"""A fine-tuned model that a command is to use in its own process: by its name in the models folder, or by its path."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tuned:
    """A model's name, its folder and its task."""

    name: str
    folder: Path
    task: str


def find(model: str, models_dir: Path | None) -> Tuned:
    """Find a model; what has a separator of paths in it is a path, all else a name in the models folder.

    Raises StoreError (invalid_model_name, unknown_model, model_corrupt).
    """
    from foursight.models.errors import StoreError  # noqa: PLC0415
    from foursight.models.finetuned import store  # noqa: PLC0415

    root = models_dir or store.default_folder()
    folder = Path(model).expanduser().absolute() if os.sep in model else root / store.check_name(model)
    name = store.check_name(folder.name)
    if not (folder / store.SPEC).is_file():
        there = ", ".join(store.names(folder.parent)) or "none"
        raise StoreError("unknown_model", f"There is no model {name!r} in {folder.parent}.", f"There are: {there}.")
    return Tuned(name, folder, store.read_spec(name, folder).task)
