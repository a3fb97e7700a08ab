"""From a query string to the options of a task. Needs no web framework: the CLI reads its options the same way."""

from collections.abc import Iterable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError

from foursight.models.errors import OptionError
from foursight.schema.options import Options
from foursight.schema.suggest import suggest, valid_values

AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse_query(query: str) -> dict[str, list[str]]:
    """Return the values of each parameter of a query string."""
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, []).append(value)
    return values


def parse_options(query: str, options_class: type[AnyOptions]) -> AnyOptions:
    """Return the options in a query string. Raises OptionError (unknown_parameter, invalid_parameter)."""
    return to_options(parse_query(query), options_class)


def to_options(parameters: Mapping[str, list[str]], options_class: type[AnyOptions]) -> AnyOptions:
    """Validate the values of parameters; only lists of names may occur several times.

    Raises OptionError (unknown_parameter, invalid_parameter).
    """
    for name, given in parameters.items():
        if len(given) > 1 and not options_class.is_list(name):
            raise OptionError(
                "invalid_parameter", f"The parameter {name!r} occurs twice.", "Pass each parameter at most once."
            )
    values = {name: ",".join(given) for name, given in parameters.items()}
    try:
        return options_class.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        raise unknown_parameter(name, [options_class])
    reason = first["msg"].removeprefix("Value error, ")
    raise OptionError(
        "invalid_parameter",
        f"Invalid parameter {name}={values[name]!r}: {reason[0].lower()}{reason[1:]}.",
        valid_values(name, options_class),
    )


def unknown_parameter(
    name: str, options_classes: Iterable[type[Options]], valid: Iterable[str] | None = None
) -> OptionError:
    """Return the error for a parameter that none of the option classes has; `valid` defaults to their fields."""
    options_classes = list(options_classes)
    if valid is None:
        valid = dict.fromkeys(field for one in options_classes for field in one.model_fields)
    valid = list(valid)
    meant = next((match for one in options_classes if (match := suggest(name, one)) in valid), None)
    hint = f"Valid parameters: {', '.join(valid)}."
    return OptionError(
        "unknown_parameter", f"Unknown parameter {name!r}.", f"Did you mean {meant!r}? {hint}" if meant else hint
    )
