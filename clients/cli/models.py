"""`foursight models`: list the models of a running server; load and unload fine-tuned ones."""

import sys

import click

from foursight.clients.cli.command import Argument, Group, Option
from foursight.clients.cli.options import api_key, url


@click.group(
    cls=Group,
    invoke_without_command=True,
    params=[url(), api_key(), Option("--json", is_flag=True, help="Print one JSON array, with all labels.")],
    example="load fruit",
)
@click.pass_context
def models(context: click.Context, url: str, api_key: str | None, json: bool) -> None:
    """List the server's models, or load and unload fine-tuned ones."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from foursight.clients.cli.server import require_server  # noqa: PLC0415

    cards = require_server(url, api_key)
    if json or not sys.stdout.isatty():
        print("[" + ",\n".join(card.model_dump_json() for card in cards) + "]")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("task", "model", "profile", "labels", "input", "device", "parameters"):
        table.add_column(title, justify="right" if title in ("labels", "parameters") else "left")
    for card in cards:
        count = f"{card.parameters / 1e6:.1f} M"
        table.add_row(card.task, card.name, card.profile, str(len(card.labels)), card.input_size, card.device, count)
    Console(highlight=False).print(table)


_PARAMETERS = [Argument("name", metavar="NAME", help="Name of a fine-tuned model."), url(), api_key()]


@models.command(params=_PARAMETERS, example="fruit")
def load(name: str, url: str, api_key: str | None) -> None:
    """Load, or reload, a model from the server's models folder. Requests continue meanwhile."""
    from foursight.clients.cli.server import open_client  # noqa: PLC0415

    with open_client(url, api_key) as client:
        card = client.load_model(name)
    print(f"{card.name} is loaded: POST {url}/v1/{card.task}?model={card.name}")


@models.command(params=_PARAMETERS, example="fruit")
def unload(name: str, url: str, api_key: str | None) -> None:
    """Unload a model. Its folder is kept."""
    from foursight.clients.cli.server import open_client  # noqa: PLC0415

    with open_client(url, api_key) as client:
        client.unload_model(name)
    print(f"{name} is unloaded.")
