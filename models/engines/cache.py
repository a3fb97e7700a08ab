"""Compiled models on disk: one file each, written atomically, checked when read, rebuilt if damaged.

A file is a SHA-256 followed by the bytes that it covers. The folder must be private to the user, because OpenVINO runs
the code that it contains.
"""

import hashlib
import mmap
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foursight.models.engines.precision import PrecisionConfig
from foursight.models.folders import cache_folder

# The four tasks of the tiny profile take 80 MB, those of the standard profile about 600 MB.
MAX_BYTES = 2 * 2**30
STALE_PART_S = 3600


def folder() -> Path:
    """Return the folder of the compiled models."""
    return cache_folder("engines")


def key(content: bytes, precision: PrecisionConfig, config: Mapping[str, Any]) -> str:
    """Return the file name of a compiled module: a SHA-256 over everything that the compilation depends on.

    That is `content` (weights, structure, shapes of the inputs), code (the sources of this package, versions of the
    libraries), `precision` (with its
    calibration images), `config` (the options of the compilation), and the processor.
    """
    digest = hashlib.sha256(content)
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    packages, images = ["torch", "torchvision", "openvino"], ""
    if precision.dtype == "int8":
        packages, images = [*packages, "nncf"], precision.digest
    versions = [version(package) for package in packages]
    digest.update(
        repr((precision.dtype, images, sorted(config.items()), versions, platform.machine(), _processor())).encode()
    )
    return digest.hexdigest()


def read(name: str) -> memoryview | None:
    """Return what `write` stored under this name; None if there is no such file or it is damaged.

    It is mapped, not read: the pages of a file that several workers use are in memory once.
    """
    path = folder() / name
    try:
        if not _is_private(path.parent):
            return None
        with path.open("rb") as file:
            # Copied if written to: OpenVINO takes writable memory only.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        # The modification time is the time of the last use: `_evict` removes the oldest files first.
        os.utime(path)
    except (OSError, ValueError):
        # An empty file cannot be mapped.
        return None
    digest, blob = content[:32], content[32:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def write(name: str, blob: bytes) -> None:
    """Store a compiled model; do nothing if the folder is not writable, or if other users can write to it."""
    root = folder()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(root):
            return
        # Renamed when complete: the process may be killed, and another may be writing the same file.
        descriptor, temporary = tempfile.mkstemp(suffix=".part", dir=root)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(blob).digest() + blob)
            Path(temporary).replace(root / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _evict(root)
    except OSError:
        return


def _evict(root: Path) -> None:
    """Remove the least recently used files beyond MAX_BYTES, and incomplete files that killed processes left."""
    found = []
    for path in root.iterdir():
        # Another process may have removed it.
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    kept = 0
    for used, size, path in sorted(found, reverse=True):
        kept += size
        if kept > MAX_BYTES or (path.suffix == ".part" and used < time.time() - STALE_PART_S):
            path.unlink(missing_ok=True)


def _is_private(root: Path) -> bool:
    status = root.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """Return the processor's model and instruction sets: a compiled model may contain code for these only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))
