"""Label spaces: the names behind class ids, and the choice of some of them by a request."""

import json
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from foursight.models.errors import OptionError


@cache
def imagenet() -> tuple[tuple[str, str], ...]:
    """The 1,000 classes of ImageNet-1k in index order, as (WordNet id, label)."""
    rows = json.loads(files("foursight.models").joinpath("data/imagenet.json").read_text())
    return tuple((wnid, label) for wnid, label in rows)


def ids_of(classes: Iterable[str], labels: Sequence[str], ids: Sequence[int]) -> frozenset[int]:
    """The ids of the classes named, of a label space `labels` with the ids `ids`; a label that occurs twice gives both.

    Raises OptionError (unknown_class) that names the closest labels there are.
    """
    chosen: set[int] = set()
    for name in classes:
        found = {class_id for label, class_id in zip(labels, ids, strict=True) if label.casefold() == name.casefold()}
        if not found:
            close = get_close_matches(name, labels, n=3, cutoff=0.5)
            hint = f"Close to it: {', '.join(close)}." if close else ""
            raise OptionError(
                "unknown_class",
                f"This model has no class {name!r}.",
                f"{hint} GET /v1/models lists its {len(labels)} labels.".strip(),
            )
        chosen |= found
    return frozenset(chosen)
