"""Compiled models on disk: one file for each, written in one step, checked when read, rebuilt where it is of no use.

A file is the SHA-256 of the rest, then the rest. The folder is the user's alone: what is read from it is run.
"""

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

# The four tasks of the tiny profile have 80 MB, those of the standard profile some 600 MB.
MAX_BYTES = 2 * 2**30
LEFT_OVER_S = 3600


def folder() -> Path:
    """Where the files are: ~/.cache/foursight/engines, or under $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foursight" / "engines"


def key(part: nn.Module, inputs: Any, config: Mapping[str, Any]) -> str:
    """The name of a part's file: a hash over all that the compiled model depends on.

    That is its weights, how it computes (its modules, the sources of this package, the versions of the libraries), what
    it takes, how it is compiled, and for which processor.
    """
    digest = hashlib.sha256()
    # Not `state_dict`: it leaves buffers out that are no part of a file of weights, and they count too.
    for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    versions = [version(package) for package in ("torch", "torchvision", "openvino")]
    digest.update(repr((part, inputs, sorted(config.items()), versions, platform.machine(), _processor())).encode())
    return digest.hexdigest()


def read(name: str) -> bytes | None:
    """What `write` was given under this name; None where there is nothing, or not what was written."""
    path = folder() / name
    try:
        if not _is_private(path.parent):
            return None
        content = path.read_bytes()
        # The time of the last use: the oldest go first.
        os.utime(path)
    except OSError:
        return None
    digest, blob = content[:32], content[32:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def write(name: str, blob: bytes) -> None:
    """Keep a compiled model. Where the folder cannot be written, or others can write there, nothing is kept."""
    place = folder()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(place):
            return
        # Under another name until it is whole: a process may be killed at any time, and several may write one file.
        descriptor, temporary = tempfile.mkstemp(suffix=".part", dir=place)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(blob).digest() + blob)
            Path(temporary).replace(place / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _clear(place)
    except OSError:
        return


def _clear(place: Path) -> None:
    """Remove what killed processes left half-written, and the files that were used longest ago."""
    found = []
    for path in place.iterdir():
        # Another process may have cleared it away.
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    kept = 0
    for used, size, path in sorted(found, reverse=True):
        kept += size
        if kept > MAX_BYTES or (path.suffix == ".part" and used < time.time() - LEFT_OVER_S):
            path.unlink(missing_ok=True)


def _is_private(place: Path) -> bool:
    status = place.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """The processor's name and abilities as Linux tells them; a compiled model may hold code for these only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
