"""The checkpoint of a training run, in a folder beside the model that the run makes."""

import hashlib
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from foursight.models.errors import DataError, StoreError
from foursight.models.finetuned import store

CHECKPOINT = "checkpoint.pt"


def work_folder(folder: Path) -> Path:
    """Return the work folder of the run that makes the model `folder`: beside it, with a name no model can have."""
    return folder.parent / f".{folder.name}.training"


def prepare(folder: Path, *, resume: bool, replace: bool) -> Path:
    """Return the work folder for a model's folder; it is emptied unless the run is resumed.

    Raises StoreError (model_exists; unknown_model if there is no run to resume).
    """
    store.check_name(folder.name)
    work = work_folder(folder)
    if resume and not (work / CHECKPOINT).exists():
        raise StoreError("unknown_model", f"There is no run of {folder.name!r} to resume.", "Start a new run.")
    if folder.exists() and not (replace or resume):
        raise StoreError(
            "model_exists", f"A model named {folder.name!r} already exists.", "Choose another name, or replace it."
        )
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    return work


def clean_up(work: Path, *, interrupted: bool) -> None:
    """Remove the checkpoint of a completed run."""
    if not interrupted:
        shutil.rmtree(work, ignore_errors=True)


def identity(*parts: object) -> str:
    """Return the SHA-256 of everything that must be the same when a run is resumed."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def save(work: Path, identity: str, content: dict[str, Any]) -> None:
    """Write a checkpoint; if the process is killed meanwhile, the previous one remains."""
    work.mkdir(parents=True, exist_ok=True)
    out = BytesIO()
    torch.save({"identity": identity} | content, out)
    new = work / f"{CHECKPOINT}.new"
    new.write_bytes(out.getvalue())
    new.replace(work / CHECKPOINT)


def load(work: Path, identity: str) -> dict[str, Any] | None:
    """Return the content of the checkpoint, or None without one. Raises DataError (checkpoint_mismatch)."""
    if not (work / CHECKPOINT).exists():
        return None
    content: dict[str, Any] = torch.load(work / CHECKPOINT, weights_only=True)
    if content["identity"] != identity:
        raise DataError(
            "checkpoint_mismatch",
            "The checkpoint belongs to a run with other data, options or backbone.",
            "Resume with the same ones, or start a new run.",
        )
    return content
