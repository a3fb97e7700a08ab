"""The file of API keys: their names, scopes and rates, and the SHA-256 of each key; never a key itself.

A key has 256 random bits, so it cannot be guessed from a fast hash, and needs no salt.
"""

import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foursight.models.folders import data_folder

Scope = Literal["infer", "models", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_RATE = 100_000
_PREFIX = "fsk_"


class KeysError(Exception):
    """The file cannot be read or changed; the message is one line for a person."""


class Key(BaseModel):
    """What is known of a key: `rate` is in requests per second, 0 for no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=f"^{NAME.pattern}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...]
    rate: int = Field(0, ge=0, le=MAX_RATE)
    created: datetime


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[Key] = []


def default_file() -> Path:
    """Return the file's default path."""
    return data_folder("keys.json")


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Return the scopes in a comma-separated list. Raises KeysError."""
    words = dict.fromkeys(word.strip() for word in text.split(","))
    if unknown := [word for word in words if word not in SCOPES]:
        raise KeysError(f"{unknown[0]!r} is not a scope. Scopes: {', '.join(SCOPES)}.")
    return tuple(scope for scope in SCOPES if scope in words)


def load(file: Path) -> list[Key]:
    """Return the keys; none if there is no file. Raises KeysError."""
    try:
        return _Keys.model_validate_json(file.read_bytes()).keys
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeysError(f"The API keys in {file} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeysError(f"{file} is not a file of API keys: {where and f'{where}: '}{first['msg']}.") from None


def generate() -> str:
    """Return a new key."""
    return _PREFIX + secrets.token_urlsafe(32)


def to_key(name: str, secret: str, scopes: Sequence[Scope], rate: int = 0) -> Key:
    """Return what is stored of a key, `secret`."""
    sha256 = hashlib.sha256(secret.encode()).hexdigest()
    return Key(name=name, sha256=sha256, scopes=tuple(scopes), rate=rate, created=datetime.now(UTC))


def create(file: Path, name: str, scopes: Sequence[Scope], rate: int = 0) -> str:
    """Add a key and return it: it is in no file. Raises KeysError."""
    if NAME.fullmatch(name) is None:
        raise KeysError(
            f"{name!r} is not valid as a name: it has 1 to 64 letters, digits, '.', '_' or '-', and starts with a "
            "letter or digit."
        )
    secret = generate()
    with _changing(file) as keys:
        if any(key.name == name for key in keys):
            raise KeysError(f"A key named {name!r} exists. Choose another name, or revoke it first.")
        keys.append(to_key(name, secret, scopes, rate))
    return secret


def revoke(file: Path, name: str) -> None:
    """Remove a key. Raises KeysError."""
    with _changing(file) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"There is no key named {name!r} in {file}. Its keys: {known}.")
        keys[:] = kept


@contextmanager
def _changing(file: Path) -> Iterator[list[Key]]:
    """Yield the keys for a change, then write them. Another process waits meanwhile."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.parent):
            keys = load(file)
            yield keys
            with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}.", delete=False) as new:
                new.write(_Keys(keys=keys).model_dump_json(indent=2) + "\n")
            Path(new.name).replace(file)
    except OSError as error:
        raise KeysError(f"The API keys in {file} cannot be changed: {error.strerror}.") from None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
