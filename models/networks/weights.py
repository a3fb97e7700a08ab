"""The standard profile's weights: torchvision's own, fetched once, checked by hash, kept in torch's cache."""

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
    """The file of torchvision weights (a member of a weights enum, or a `torchvision.models.Weights`), in the cache.

    It is downloaded where the cache lacks it. Its name ends in the first digits of its SHA-256, as torchvision names
    all its files, and a file that does not match is refused, whether it was just fetched or put there by hand.
    Raises WeightsError (weights_unavailable, weights_corrupt).
    """
    path = cached_path(published)
    digest = _expected_digest(path)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient():
                download_url_to_file(published.url, str(path), hash_prefix=digest, progress=False)
        actual = _sha256(path)
    except OSError as error:
        # URLError is an OSError too.
        raise _refusal(published, "weights_unavailable", "could not be downloaded (no network?)") from error
    except RuntimeError as error:
        # What download_url_to_file raises, having thrown the file away.
        raise _refusal(published, "weights_corrupt", "arrived with a wrong SHA-256") from error
    if not actual.startswith(digest):
        raise _refusal(published, "weights_corrupt", "in the cache have a wrong SHA-256")
    return path


def state_dict(published: Any) -> dict[str, Any]:
    """The parameters of torchvision weights, on the CPU. Raises WeightsError."""
    state: dict[str, Any] = torch.load(fetch(published), map_location="cpu", weights_only=True)
    return state


@contextmanager
def _impatient() -> Iterator[None]:
    """Give up on a network that swallows packets: torch's download has no time-out of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def cached_path(published: Any) -> Path:
    """Where torch's hub keeps the file: $TORCH_HOME/hub/checkpoints, else ~/.cache/torch/hub/checkpoints."""
    return Path(get_dir()) / "checkpoints" / Path(urlparse(published.url).path).name


def _expected_digest(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if found is None:
        raise ValueError(f"{path.name} carries no digest in its name")
    return found[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refusal(published: Any, code: str, what: str) -> WeightsError:
    path = cached_path(published)
    size = published.meta.get("_file_size")
    return WeightsError(
        code,
        f"The standard profile's weights {path.name} ({size:.0f} MB) {what}: {published.url}",
        f"Put the file into {path.parent} by hand, or use the tiny profile (--profile tiny), which needs no download.",
    )
