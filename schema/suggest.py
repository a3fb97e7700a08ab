"""Close matches for a mistyped name, for the error hints of the server and the command line."""

from collections.abc import Iterable
from difflib import get_close_matches

from foursight.schema.options import Options


def suggest(name: str, options_class: type[Options]) -> str | None:
    """Return the option that `name` was meant to be, or None. Case and `-` for `_` do not matter."""
    fields = {name: name for name in options_class.model_fields} | options_class.synonyms()
    return next((fields[match] for match in close_matches(_normalize(name), fields, 1)), None)


def close_matches(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Return up to `limit` of the `known` names that look like `name`, the closest first; case does not matter."""
    by_lower = {one.lower(): one for one in known}
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, limit, cutoff=0.7)]


def valid_values(name: str, options_class: type[Options]) -> str:
    """Return a sentence with the values that a field accepts, and the field's description."""
    schema = options_class.model_json_schema()["properties"][name]
    parts = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    description: str = schema.get("description", "")
    if "enum" in parts[0]:
        return f"Valid values: {', '.join(map(str, parts[0]['enum']))}. {description}".strip()
    if "minimum" in parts[0] and "maximum" in parts[0]:
        number = "an integer" if parts[0]["type"] == "integer" else "a number"
        return f"Pass {number} from {parts[0]['minimum']:g} to {parts[0]['maximum']:g}. {description}".strip()
    return description


def _normalize(name: str) -> str:
    return name.strip("-").lower().replace("-", "_")
