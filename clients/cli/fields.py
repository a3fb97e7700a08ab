"""Options that derive from a pydantic model: type, range, default and help text are those of its fields."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined
from pydantic_core.core_schema import ErrorType

from foursight.clients.cli.command import Option

# Messages for pydantic's own errors; validators write their messages themselves.
_ERROR_TYPES = get_args(ErrorType)
_METAVARS = {"model": "NAME", "classes": "LABELS", "allowed_origins": "ORIGINS"} | dict.fromkeys(
    ("keys_file", "tls_cert", "tls_key"), "FILE"
)
# The choices are listed only where they leave room for the help text.
_LONGEST_METAVAR = 13


def options_of(model: type[BaseModel], section: str | None = None) -> list[click.Option]:
    """Return an option for each field of a model: `top_k` becomes --top-k.

    The value of an option that is not given is None, so that the model's default applies. A field that is a dict
    becomes an option in the singular that can be repeated: `models` becomes --model NAME=PATH.
    """
    return [_option(model, name, field, section) for name, field in model.model_fields.items()]


def option_name(field_name: str, model: type[BaseModel] | None = None) -> str:
    """Return the name of a field's option."""
    field = model.model_fields.get(field_name) if model else None
    name = field_name.removesuffix("s") if field and _is_dict(field) else field_name
    return f"--{name.replace('_', '-')}"


def environment_variable(model: type[BaseModel], field_name: str) -> str | None:
    """Return the environment variable of a field, if the model's configuration has an `env_prefix`."""
    prefix = model.model_config.get("env_prefix")
    return f"{prefix}{field_name.upper()}" if prefix else None


def explain_error(model: type[BaseModel], name: str, error: ErrorDetails) -> str:
    """Say what is wrong with the value of a field, and what would be right."""
    allowed = _allowed(model.model_fields[name])
    if allowed and error["type"] in _ERROR_TYPES and error["type"] != "value_error":
        return f"must be {allowed}, not {error['input']!r}."
    return error["msg"].removeprefix("Value error, ").rstrip(".") + "."


class FieldType(click.ParamType[Any]):
    """The type of an option whose value must be valid for a field of a pydantic model."""

    name = "field"

    def __init__(self, model: type[BaseModel], field: str) -> None:
        self.model = model
        self.field = field

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Validate the value of one option; errors of other fields and of the whole model are reported later."""
        try:
            return getattr(self.model.model_validate({self.field: value}), self.field)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["loc"][:1] == (self.field,):
                    self.fail(explain_error(self.model, self.field, details), param, ctx)
            return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete one of a fixed set of values."""
        return [
            CompletionItem(one) for one in _choices(self.model.model_fields[self.field]) if one.startswith(incomplete)
        ]


class _FieldOption(Option):
    """An option whose errors name the environment variable of the setting, if there is one."""

    variable: str | None = None

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the name for errors: '--port' (FOURSIGHT_PORT)."""
        hint = super().get_error_hint(ctx)
        return f"{hint} ({self.variable})" if self.variable else hint


def _option(model: type[BaseModel], name: str, field: FieldInfo, section: str | None) -> click.Option:
    description = (field.description or "").replace("`", "")
    default = _show(field.default)
    option = _FieldOption(
        [option_name(name, model), name],
        type=click.STRING if _is_dict(field) else FieldType(model, name),
        multiple=_is_dict(field),
        metavar=_metavar(name, field),
        help=f"{description}  [default: {default}]" if default else description,
        section=section,
    )
    option.variable = environment_variable(model, name)
    return option


def _show(default: Any) -> str | None:
    if default is None or default is PydanticUndefined or default == {}:
        return None
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)


def _metavar(name: str, field: FieldInfo) -> str:
    choices, kind = "|".join(_choices(field)), _type_of(field)
    if choices:
        return choices if len(choices) <= _LONGEST_METAVAR else name.upper().rpartition("_")[2]
    if kind in (int, float):
        return "N"
    if kind is Path:
        return "FOLDER"
    if _is_dict(field):
        return "NAME=PATH"
    return _METAVARS.get(name, name.upper())


def _allowed(field: FieldInfo) -> str | None:
    """Return the valid values in words: "an integer from 1 to 1000"."""
    choices, kind = _choices(field), _type_of(field)
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else choices[0]
    if kind not in (int, float):
        return None
    bounds = {
        word: getattr(one, word) for one in field.metadata for word in ("ge", "gt", "le", "lt") if hasattr(one, word)
    }
    return number_text(kind, bounds.get("ge"), bounds.get("le"))


def number_text(kind: type, minimum: float | None, maximum: float | None) -> str:
    """Return a range of numbers in words."""
    name = "an integer" if kind is int else "a number"
    if minimum is not None and maximum is not None:
        return f"{name} from {minimum} to {maximum}"
    return f"{name}, {minimum} or more" if minimum is not None else name


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kind = _type_of(field)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _is_dict(field: FieldInfo) -> bool:
    return get_origin(_type_of(field)) is dict


def _type_of(field: FieldInfo) -> Any:
    """Return the type of a field without Annotated and None."""
    kind: Any = field.annotation
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    return kind
