"""Shared by both kinds of data sets: the choice of images for validation, file digests, and errors."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from foursight.models.errors import DataError

# Without a given split, 1 of VALIDATION_PART files is for validation.
VALIDATION_PART = 5


def validation_split(digests: Iterable[str], seed: int) -> frozenset[str]:
    """Return the digests of the files for validation: a fifth, but one of two to four files, and none of one.

    They come first in the order of the SHA-256 of seed and digest, so copies of a file are on the same side.
    """
    order = sorted(set(digests), key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).hexdigest())
    return frozenset(order[: max(1, len(order) // VALIDATION_PART) if len(order) > 1 else 0])


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bad_data(problems: tuple[str, ...]) -> DataError:
    """Return the error for a data set with these problems."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return DataError("bad_data", f"The data cannot be used for training: {count}.", "Nothing was written.", problems)


def unreadable_line(path: Path, error: Exception) -> str:
    """Return the problem line for an image that cannot be decoded."""
    return f"{path.parent.name}/{path.name}: {getattr(error, 'detail', error)}"
