"""Fine-tuned models on disk: one folder each, with model.safetensors, model.json, and pages for people.

model.json is the root of trust: it says what the tensors are for and what their file's SHA-256 is. Nothing here runs
code from a model's folder: tensors are read by safetensors, never unpickled. Needs no torch until tensors are read.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foursight.models.errors import StoreError
from foursight.schema.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

SPEC, WEIGHTS = "model.json", "model.safetensors"
# A name is a folder's name and part of a URL: no path can be built from it.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BackboneRef(BaseModel):
    """The backbone that a model stands on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(description="stages.fingerprint of the backbone as published.")
    frozen: int = Field(ge=0, description="So many first stages are the published ones; the rest is in the file.")


class ModelSpec(BaseModel):
    """model.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    task: Literal["classify", "localize", "detect", "segment"]
    backbone: BackboneRef
    head: dict[str, str | int | float | None] = Field(description="What the task's head is made of.")
    labels: tuple[str, ...] = Field(min_length=1, description="By class index.")
    sha256: str = Field(description="Of model.safetensors.")


def default_folder() -> Path:
    """Where models are kept unless FOURSIGHT_MODELS_DIR says otherwise: the user's data folder (XDG)."""
    chosen = os.environ.get("FOURSIGHT_MODELS_DIR")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "foursight" / "models"


def check_name(name: str) -> str:
    """The name itself. Raises StoreError (invalid_model_name)."""
    if NAME.fullmatch(name) is None or name in TASKS:
        raise StoreError(
            "invalid_model_name",
            f"{name!r} is no name for a model.",
            "A name has 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit; "
            "a task's name is none.",
        )
    return name


def names(folder: Path) -> list[str]:
    """The names of the models in a models folder; what is half-written has no such name."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / SPEC).is_file())


def read_spec(name: str, folder: Path) -> ModelSpec:
    """The model.json of a model's folder. Raises StoreError (unknown_model, model_corrupt)."""
    try:
        text = (folder / SPEC).read_bytes()
    except FileNotFoundError:
        raise StoreError(
            "unknown_model", f"There is no model {name!r}.", f"A model is a folder with {SPEC} and {WEIGHTS}."
        ) from None
    except OSError as error:
        raise _corrupt(name, f"{SPEC} cannot be read ({error.strerror})") from None
    try:
        return ModelSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _corrupt(name, f"{SPEC} is not valid: {where + ': ' if where else ''}{first['msg']}") from None


def read_weights(name: str, folder: Path, spec: ModelSpec) -> bytes:
    """The bytes of a model's tensors, if their SHA-256 is what model.json says. Raises StoreError (model_corrupt)."""
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise _corrupt(name, f"{WEIGHTS} cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise _corrupt(name, f"{WEIGHTS} ({len(data):,} bytes) is not the file that {SPEC} names by its SHA-256")
    return data


def read_tensors(name: str, folder: Path, spec: ModelSpec) -> "dict[str, Tensor]":
    """The tensors of a model, on the CPU, of a file whose SHA-256 is what model.json says.

    Raises StoreError (model_corrupt).
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415

    # The bytes that were checked are those that are used: the file may be another one a moment later.
    data = read_weights(name, folder, spec)
    try:
        return load(data)
    except SafetensorError as error:
        raise _corrupt(name, f"{WEIGHTS} is no safetensors file: {error}") from None


def mismatch_error(name: str, reason: str) -> StoreError:
    """The refusal of a model that is whole, but is for something else."""
    return StoreError("model_mismatch", f"The model {name!r} does not fit: {reason}.", "Fine-tune it again for this.")


def _corrupt(name: str, reason: str) -> StoreError:
    return StoreError(
        "model_corrupt", f"The model {name!r} is refused: {reason}.", "Copy its folder again, or fine-tune it again."
    )


def pack(tensors: "Mapping[str, Tensor]", spec: dict[str, object]) -> dict[str, bytes]:
    """The two files of a model, by name; `spec` is model.json without `sha256`."""
    from safetensors.torch import save  # noqa: PLC0415

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    whole = ModelSpec.model_validate(spec | {"sha256": hashlib.sha256(data).hexdigest()})
    return {WEIGHTS: data, SPEC: (json.dumps(whole.model_dump(), indent=2) + "\n").encode()}


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` at the end of the context, all of it or nothing.

    What stood at `folder` is replaced. Where the context raises, nothing is left; where the process is killed, a folder
    is left whose name no model can have. (A kill between the two renames of a replacement leaves both so, whole.)
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.new"
    new.mkdir()
    try:
        yield new
        for path in new.rglob("*"):
            _sync(path)
        _sync(new)
        if folder.exists():
            old = new.with_suffix(".old")
            folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            new.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
