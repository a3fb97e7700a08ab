"""Close matches for a mistyped name, for error hints of the server and of the command line."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel


def suggest(name: str, model_class: type[BaseModel]) -> str | None:
    """Return the field of `model_class` that `name` was meant to be, or None.

    A field's synonyms are in its `json_schema_extra={"synonyms": [...]}`. Case and `-` for `_` do not matter.
    """
    wanted = _normalize(name)
    fields = {_normalize(field): field for field in model_class.model_fields}
    for field, info in model_class.model_fields.items():
        extra: Any = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        fields |= {_normalize(synonym): field for synonym in extra.get("synonyms", ())}
    return next((fields[match] for match in close_matches(wanted, fields, 1)), None)


def close_matches(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` of the `known` names that look like `name`, the closest first; case does not matter."""
    by_lower = {one.lower(): one for one in known}
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, limit, cutoff=0.7)]


def _normalize(name: str) -> str:
    return name.strip("-").lower().replace("-", "_")
