"""The choice of the images for validation, for data sets without a split of their own."""

import hashlib
from collections.abc import Iterable

# Without a given split, 1 of VALIDATION_PART files is for validation.
VALIDATION_PART = 5


def validation_split(digests: Iterable[str], seed: int) -> frozenset[str]:
    """Return the digests of the files for validation: a fifth, but one of two to four files, and none of one.

    They come first in the order of the SHA-256 of seed and digest, so copies of a file are on the same side.
    """
    order = sorted(set(digests), key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).hexdigest())
    return frozenset(order[: max(1, len(order) // VALIDATION_PART) if len(order) > 1 else 0])
