"""What the commands that answer photos have in common: their arguments and options, in one list."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

_PANEL = "In and out"

Classes = Annotated[str | None, typer.Option(help="Labels to keep, comma-separated.")]
ScoreThreshold = Annotated[float | None, typer.Option(help="Leave out lower scores.")]
MaxDetections = Annotated[int | None, typer.Option(help="At most so many objects.")]
MaskFormat = Annotated[Literal["rle", "polygon", "none"] | None, typer.Option(help="How masks are written.")]
TopK = Annotated[int | None, typer.Option(help="How many labels.")]


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, show_envvar=False, **settings)


Url = Annotated[str, _option(envvar="FOURSIGHT_URL", help="The server, or $FOURSIGHT_URL.")]
ApiKey = Annotated[str | None, _option(envvar="FOURSIGHT_API_KEY", help="Bearer token, or $FOURSIGHT_API_KEY.")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """The photos, where they are answered, and how the answers leave."""

    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILES|FOLDER|-", help="Photos, folders; - is standard input."),
    ] = None
    url: Url = DEFAULT_URL
    api_key: ApiKey = None
    local: Annotated[bool, _option("--local", help="No server: compute in this process.")] = False
    concurrency: Annotated[int, _option(metavar="N", min=1, help="Photos under way at a time.")] = 8
    max_side: Annotated[int | None, _option(metavar="PIXELS", min=1, help="Shrink larger photos before upload.")] = None
    json: Annotated[bool, _option("--json", help="Write one JSON array.")] = False
    jsonl: Annotated[bool, _option("--jsonl", help="Write JSON lines: as if piped.")] = False
    draw: Annotated[Path | None, _option(metavar="OUT", help="Write pictures too: a file, or a folder.")] = None
    watch: Annotated[Path | None, _option(metavar="FOLDER", help="Answer photos as they appear there.")] = None


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command Common's fields as parameters of its own, in the place of its last one, `common`."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[:-1]
    hints = get_type_hints(Common, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Common)
    ]

    @wraps(command)
    def expanded(**values: Any) -> None:
        common = Common(**{field.name: values.pop(field.name) for field in fields(Common)})
        command(**values, common=common)

    parameters = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *shared]
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded
