"""Writes clients/sdk/options.py from the options declared in schema/: `python -m tools.generate_sdk_options`.

TypedDicts let type checkers and editors know the keyword arguments of the client's methods, and cannot be derived from
the pydantic classes at run time.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.tasks import TASKS

TARGET = Path(__file__).parents[1] / "clients" / "sdk" / "options.py"

_HEADER = '''\
"""The options of the client's methods. Generated from schema/ by tools.generate_sdk_options; do not edit.

The server checks the values and fills in the defaults.
"""

from collections.abc import Iterable
from typing import Literal, TypedDict


class _ClientOptions(TypedDict, total=False):
    max_side: int | None
    """Longest side in pixels: larger images are shrunk before the upload. Boxes and masks refer to the original."""
'''


def generate() -> str:
    """The source of clients/sdk/options.py."""
    kinds = {name: dict(task.options.model_fields) for name, task in TASKS.items()}
    passed_on = {name: field for fields in kinds.values() for name, field in fields.items()}
    descriptions = {
        name: f"Passed on to {', '.join(task for task, fields in kinds.items() if name in fields)}."
        for name in passed_on
    }
    classes = [_typed_dict(task, fields) for task, fields in kinds.items()]
    classes.append(_typed_dict("analyze", AnalyzeOptions.model_fields | passed_on, descriptions))
    return "\n\n".join((_HEADER, *classes))


def _typed_dict(task: str, fields: Mapping[str, FieldInfo], descriptions: Mapping[str, str] | None = None) -> str:
    lines = [f"class {task.capitalize()}Options(_ClientOptions, total=False):", f'    """Options of `{task}`."""', ""]
    for name, field in fields.items():
        description = (descriptions or {}).get(name) or _description(field)
        lines += [f"    {name}: {_type(field.annotation)} | None", *_docstring(description)]
    return "\n".join(lines) + "\n"


def _description(field: FieldInfo) -> str:
    default = "" if field.default is None else f" Default: {field.default}."
    return f"{field.description}{default}"


def _docstring(text: str) -> list[str]:
    if len(text) <= 110:
        return [f'    """{text}"""']
    lines = textwrap.wrap(text, 112, initial_indent='    """', subsequent_indent="    ")
    return [*lines, '    """']


def _type(annotation: Any) -> str:
    """The type of a keyword argument, without None. Lists may also be comma-separated text."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " | ".join(_type(one) for one in arguments if one is not NoneType)
    if origin is list:
        return f"Iterable[{_type(arguments[0])}] | str"
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]".replace("'", '"')
    return str(annotation.__name__)


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
