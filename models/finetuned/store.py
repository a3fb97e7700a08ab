"""Fine-tuned models on disk: one folder each, with model.json, model.safetensors, and a report for people.

model.json is the root of trust: it describes the tensors and contains the SHA-256 of their file. No code from a model's
folder is ever run: tensors are read by safetensors, never unpickled. torch is imported only to read tensors.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foursight.models.errors import StoreError
from foursight.models.folders import data_folder
from foursight.schema.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor

SPEC, WEIGHTS = "model.json", "model.safetensors"
# A name becomes a folder's name and part of a URL, so it must not be usable as a path.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BackboneRef(BaseModel):
    """The backbone that a model was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str = Field(description="stages.fingerprint of the published backbone.")
    frozen: int = Field(
        ge=0, description="Number of leading stages that are the published ones; the file has the rest."
    )


class ModelSpec(BaseModel):
    """Contents of model.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    task: Literal["classify", "localize", "detect", "segment"]
    backbone: BackboneRef
    head: dict[str, str | int | float | None] = Field(description="Structure of the head; its keys depend on the task.")
    labels: tuple[str, ...] = Field(min_length=1, description="Labels by class index.")
    category_ids: tuple[int, ...] | None = Field(
        default=None,
        description="Class ids of the labels in answers: those of the data set. Without them 0, 1, ...",
    )
    sha256: str = Field(description="SHA-256 of model.safetensors.")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSpec":
        ids = self.category_ids
        if ids is not None and not len(ids) == len(set(ids)) == len(self.labels):
            raise ValueError("category_ids must have one id for each label")
        return self


def default_folder() -> Path:
    """Return the folder of all models: $FOURSIGHT_MODELS_DIR, else "models" in the user's data folder."""
    configured = os.environ.get("FOURSIGHT_MODELS_DIR")
    return Path(configured) if configured else data_folder("models")


def check_name(name: str) -> str:
    """Return the name if it is a valid model name. Raises StoreError (invalid_model_name)."""
    if NAME.fullmatch(name) is None or name in TASKS:
        raise StoreError(
            "invalid_model_name",
            f"Invalid model name {name!r}.",
            "A name has 1 to 64 letters, digits, '.', '_' or '-', begins with a letter or digit, and must not be the "
            "name of a task.",
        )
    return name


def names(folder: Path) -> list[str]:
    """Return the sorted names of the models in a folder; models that are being written are left out."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / SPEC).is_file())


def read_spec(name: str, folder: Path) -> ModelSpec:
    """Read model.json from a model's folder. Raises StoreError (unknown_model, model_corrupt)."""
    try:
        text = _read_file(folder / SPEC)
    except FileNotFoundError:
        raise StoreError(
            "unknown_model", f"There is no model {name!r}.", f"A model is a folder that contains {SPEC} and {WEIGHTS}."
        ) from None
    except OSError as error:
        raise _corrupt(name, f"{SPEC} cannot be read ({error.strerror})") from None
    try:
        return ModelSpec.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _corrupt(name, f"{SPEC} is not valid: {where + ': ' if where else ''}{first['msg']}") from None


def _read_file(path: Path) -> bytes:
    """Read a regular file. Raises OSError; a FIFO or a device could block for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.read_bytes()


def read_weights(name: str, folder: Path, spec: ModelSpec) -> bytes:
    """Read the file of a model's tensors and check its SHA-256. Raises StoreError (model_corrupt)."""
    try:
        data = _read_file(folder / WEIGHTS)
    except OSError as error:
        raise _corrupt(name, f"{WEIGHTS} cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise _corrupt(name, f"{WEIGHTS} ({len(data):,} bytes) does not have the SHA-256 that {SPEC} names")
    return data


def read_tensors(name: str, folder: Path, spec: ModelSpec) -> "dict[str, Tensor]":
    """Read a model's tensors onto the CPU and check the SHA-256 of their file. Raises StoreError (model_corrupt)."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load  # noqa: PLC0415

    # Parse the bytes that were checked, not the file: it may be replaced in between.
    data = read_weights(name, folder, spec)
    try:
        return load(data)
    except SafetensorError as error:
        raise _corrupt(name, f"{WEIGHTS} is not a safetensors file: {error}") from None


def mismatch_error(name: str, reason: str) -> StoreError:
    """Return the error for a model that is intact but does not fit the task or the backbone."""
    return StoreError("model_mismatch", f"The model {name!r} does not fit: {reason}.", "Fine-tune it again.")


def _corrupt(name: str, reason: str) -> StoreError:
    return StoreError(
        "model_corrupt", f"The model {name!r} is damaged: {reason}.", "Copy its folder again, or fine-tune it again."
    )


def pack(tensors: "Mapping[str, Tensor]", spec: dict[str, object]) -> dict[str, bytes]:
    """Return a model's two files as {name: bytes}. `spec` is the contents of model.json without `sha256`."""
    from safetensors.torch import save  # noqa: PLC0415

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    whole = ModelSpec.model_validate(spec | {"sha256": hashlib.sha256(data).hexdigest()})
    return {WEIGHTS: data, SPEC: (json.dumps(whole.model_dump(), indent=2) + "\n").encode()}


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Write a folder atomically: fill the one that the context yields, and it becomes `folder` at the end.

    An existing folder is replaced. If the context raises, nothing remains. If the process is killed, a folder remains
    whose name no model can have; if that happens between the two renames of a replacement, both old and new remain
    under such names, complete.
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
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
