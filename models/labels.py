"""Label spaces: the names of class ids, and the ids of the classes that a request names."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from foursight.models.errors import OptionError

# A label space of at most this size is listed in full in the error for an unknown label.
LISTED = 20


@cache
def imagenet() -> tuple[tuple[str, str], ...]:
    """Return the 1,000 classes of ImageNet-1k in index order, as (WordNet id, label)."""
    rows = json.loads(files("foursight.models").joinpath("data/imagenet.json").read_text())
    return tuple((wnid, label) for wnid, label in rows)


def ids_of(classes: Iterable[str], labels: Sequence[str], ids: Sequence[int]) -> frozenset[int]:
    """Return the ids of the named classes; case is ignored, and a label that occurs twice has both its ids.

    `ids` are those of `labels`, in the same order. Raises OptionError (unknown_class), with the closest labels.
    """
    wanted: set[int] = set()
    for name in classes:
        found = {class_id for label, class_id in zip(labels, ids, strict=True) if label.casefold() == name.casefold()}
        if not found:
            raise OptionError("unknown_class", f"This model has no class {name!r}.", _hint(name, labels))
        wanted |= found
    return frozenset(wanted)


def _hint(name: str, labels: Sequence[str]) -> str:
    if len(labels) <= LISTED:
        return f"Its classes: {', '.join(labels)}."
    close = get_close_matches(name, labels, n=3, cutoff=0.5)
    return f"Close matches: {', '.join(close)}." if close else f"None of its {len(labels):,} classes is similar."
