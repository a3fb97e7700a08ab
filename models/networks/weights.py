"""Weights of the standard profile: torchvision's, downloaded once into torch's cache and checked by hash."""

import hashlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch.hub import download_url_to_file, get_dir

from foursight.models.errors import WeightsError

TIMEOUT_S = 30.0


def fetch(published: Any) -> Path:
    """Return the file of torchvision weights (a member of a weights enum, or a `torchvision.models.Weights`).

    It is downloaded unless the cache has it. Its name ends in the first digits of its SHA-256, as for all torchvision
    files; a file that does not match is refused, downloaded or not. Raises WeightsError (weights_unavailable,
    weights_corrupt).
    """
    path = cached_path(published)
    digest = _expected_digest(path)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _socket_timeout():
                download_url_to_file(published.url, str(path), hash_prefix=digest, progress=False)
        actual = _sha256(path)
    except OSError as error:
        # URLError is an OSError.
        raise _error(published, "weights_unavailable", "could not be downloaded (no network?)") from error
    except RuntimeError as error:
        # download_url_to_file has removed the file.
        raise _error(published, "weights_corrupt", "arrived with a wrong SHA-256") from error
    if not actual.startswith(digest):
        raise _error(published, "weights_corrupt", "in the cache have a wrong SHA-256")
    return path


def state_dict(published: Any) -> dict[str, Any]:
    """Return the state dict of torchvision weights, on the CPU. Raises WeightsError."""
    state: dict[str, Any] = torch.load(fetch(published), map_location="cpu", weights_only=True)
    return state


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """Limit how long the download waits for a packet: torch's has no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def cached_path(published: Any) -> Path:
    """Return the path in torch's hub cache: $TORCH_HOME/hub/checkpoints, else ~/.cache/torch/hub/checkpoints."""
    return Path(get_dir()) / "checkpoints" / Path(urlparse(published.url).path).name


def _expected_digest(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if found is None:
        raise ValueError(f"{path.name} has no digest in its name")
    return found[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _error(published: Any, code: str, what: str) -> WeightsError:
    path = cached_path(published)
    size = published.meta.get("_file_size")
    return WeightsError(
        code,
        f"The standard profile's weights {path.name} ({size:.0f} MB) {what}: {published.url}",
        f"Put the file into {path.parent}, or use the tiny profile, which needs no download.",
    )
