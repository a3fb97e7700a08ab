"""The options that several commands share, each declared once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from foursight.clients.cli.command import Argument, Option
from foursight.clients.cli.fields import number_text
from foursight.schema.tasks import TASKS

DEFAULT_URL = "http://127.0.0.1:8000"
PROFILES = ("tiny", "standard")

_SECTION = "Input and output"


class Number(click.ParamType[int | float]):
    """A number in a range, which its error names."""

    name = "number"

    def __init__(self, kind: type[int] | type[float] = int, minimum: float | None = None, maximum: float | None = None):
        self.kind = kind
        self.minimum = minimum
        self.maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Parse and check the range."""
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        lowest = self.minimum if self.minimum is not None else float("-inf")
        highest = self.maximum if self.maximum is not None else float("inf")
        if number is None or not lowest <= number <= highest:
            self.fail(f"must be {number_text(self.kind, self.minimum, self.maximum)}, not {value!r}.", param, ctx)
        return number


def url(section: str | None = None) -> click.Option:
    """--url, of commands that need a server."""
    text = "The server's address, or $FOURSIGHT_URL."
    settings = {"envvar": "FOURSIGHT_URL", "default": DEFAULT_URL, "show_default": False}
    return Option("--url", metavar="URL", help=text, section=section, **settings)


def api_key(section: str | None = None) -> click.Option:
    """--api-key."""
    text = "API key, or $FOURSIGHT_API_KEY."
    return Option("--api-key", envvar="FOURSIGHT_API_KEY", metavar="KEY", help=text, section=section)


def task(default: str | None = None, note: str = "") -> click.Option:
    """--task."""
    text = f"{', '.join(TASKS)}.{note}"
    return Option("--task", type=click.Choice(list(TASKS)), default=default, metavar="TASK", help=text)


def models_dir() -> click.Option:
    """--models-dir, of commands that use a fine-tuned model in this process."""
    text = "Folder of fine-tuned models, or $FOURSIGHT_MODELS_DIR."
    return Option("--models-dir", envvar="FOURSIGHT_MODELS_DIR", type=PATH, metavar="FOLDER", help=text)


def profile() -> click.Option:
    """--profile, of commands that load a built-in model."""
    text = "Weights: tiny (built in) or standard (torchvision's)."
    return Option("--profile", type=click.Choice(PROFILES), default="tiny", metavar="tiny|standard", help=text)


PATH = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The values of `shared_parameters`: the images, where they are answered, and how the answers are written."""

    images: tuple[str, ...]
    url: str
    api_key: str | None
    local: bool
    concurrency: int
    max_side: int | None
    timeout: float
    json: bool
    jsonl: bool
    draw: Path | None
    watch: Path | None


def shared_parameters() -> list[click.Parameter]:
    """Return the parameters of every command that answers images; the fields of Shared."""
    metavar, minimum = "FILE|FOLDER|URL|-...", Number(int, 1)
    return [
        Argument("images", nargs=-1, metavar=metavar, help="Images or folders of images; - is standard input."),
        url(_SECTION),
        api_key(_SECTION),
        Option("--local", is_flag=True, help="Compute in this process, without a server.", section=_SECTION),
        Option(
            "--concurrency",
            type=minimum,
            default=8,
            metavar="N",
            help="Number of images in flight.",
            section=_SECTION,
        ),
        Option(
            "--max-side", type=minimum, metavar="N", help="Shrink images to N pixels before upload.", section=_SECTION
        ),
        Option(
            "--timeout",
            type=Number(float, 0.001),
            default=60,
            metavar="SECONDS",
            help="How long to wait for each answer.",
            section=_SECTION,
        ),
        Option("--json", is_flag=True, help="Write one JSON array.", section=_SECTION),
        Option("--jsonl", is_flag=True, help="Write JSON lines, as into a pipe.", section=_SECTION),
        Option("--draw", type=PATH, metavar="OUT", help="Also write pictures: a file, or a folder.", section=_SECTION),
        Option("--watch", type=PATH, metavar="FOLDER", help="Answer images as they appear there.", section=_SECTION),
    ]
