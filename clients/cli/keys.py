"""`foursight keys`: the API keys of a server on this machine."""

import json as json_text
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from foursight.clients.cli.command import Argument, CommandError, Group, Option
from foursight.clients.cli.extras import required
from foursight.clients.cli.options import PATH, Number


def _file() -> click.Option:
    text = "File of API keys, or $FOURSIGHT_KEYS_FILE.  [default: ~/.local/share/foursight/keys.json]"
    return Option("--keys-file", envvar="FOURSIGHT_KEYS_FILE", type=PATH, metavar="FILE", help=text)


@click.group(
    cls=Group,
    invoke_without_command=True,
    params=[_file(), Option("--json", is_flag=True, help="Print one JSON array.")],
    example="create camera --scopes infer --rate 20",
)
@click.pass_context
def keys(context: click.Context, keys_file: Path | None, json: bool) -> None:
    """List, create and revoke API keys. A running server follows within seconds."""
    if context.invoked_subcommand is not None:
        return
    with _errors():
        from foursight.serving import api_keys  # noqa: PLC0415

        found = api_keys.load(keys_file or api_keys.default_file())
    if json or not sys.stdout.isatty():
        shown = [key.model_dump(mode="json", exclude={"sha256"}) for key in found]
        print(json_text.dumps(shown, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("name", "scopes", "requests/s", "created"):
        table.add_column(title, justify="right" if title == "requests/s" else "left")
    for key in found:
        rate = str(key.rate) if key.rate else "no limit"
        table.add_row(key.name, ", ".join(key.scopes), rate, f"{key.created.astimezone():%Y-%m-%d %H:%M}")
    Console(highlight=False).print(table)


@keys.command(
    params=[
        Argument("name", metavar="NAME", help="What the key is called in lists and in the log."),
        Option(
            "--scopes",
            default="infer",
            metavar="SCOPE,...",
            help="What it may do: infer, models (load and unload), metrics (read /metrics).",
        ),
        Option("--rate", type=Number(int, 1, 100_000), metavar="N", help="Requests per second. Without it, no limit."),
        _file(),
    ],
    example="camera --scopes infer --rate 20",
)
def create(name: str, scopes: str, rate: int | None, keys_file: Path | None) -> None:
    """Create a key and print it. It is not stored: only its hash is."""
    with _errors():
        from foursight.serving import api_keys  # noqa: PLC0415

        file = keys_file or api_keys.default_file()
        key = api_keys.create(file, name, api_keys.parse_scopes(scopes), rate or 0)
    print(key)
    if sys.stdout.isatty():
        print("\nKeep it: it is not shown again. Send it as Authorization: Bearer KEY, or set FOURSIGHT_API_KEY.")


@keys.command(params=[Argument("name", metavar="NAME", help="Name of a key."), _file()], example="camera")
def revoke(name: str, keys_file: Path | None) -> None:
    """Revoke a key."""
    with _errors():
        from foursight.serving import api_keys  # noqa: PLC0415

        api_keys.revoke(keys_file or api_keys.default_file(), name)
    print(f"{name} is revoked.")


@contextmanager
def _errors() -> Iterator[None]:
    with required():
        from foursight.serving.api_keys import KeysError  # noqa: PLC0415
    try:
        yield
    except KeysError as error:
        raise CommandError(str(error)) from None
