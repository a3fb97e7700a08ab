"""The error messages for unknown labels and models: the closest names, and how to list all."""

from collections.abc import Iterable, Sequence

from foursight.schema.suggest import close_matches


def unknown_label(classes: Iterable[str], labels: Sequence[str]) -> str:
    """Return the message for --classes that are not all labels."""
    known = {label.casefold() for label in labels}
    unknown = next((name for name in classes if name.casefold() not in known), "")
    return f"no label {unknown!r}.{_closest(unknown, labels)} `foursight models --json` lists all {len(known)} labels."


def unknown_model(model: str, names: Sequence[str]) -> str:
    """Return the message for a --model that the server does not have."""
    if not names:
        return f"no model {model!r}: the server has no fine-tuned models here."
    return f"no model {model!r}.{_closest(model, names)} `foursight models` lists all {len(names)}: {', '.join(names)}."


def _closest(name: str, known: Iterable[str]) -> str:
    matches = close_matches(name, known)
    return f" Closest: {', '.join(matches)}." if matches else ""
