"""`foursight models`: those of a running server; fine-tuned ones are loaded and dropped while it runs."""

import sys
from typing import Annotated

import typer

from foursight.clients.cli.common import DEFAULT_URL, ApiKey, Url

app = typer.Typer(invoke_without_command=True, epilog="Example: [bold]foursight models load fruit[/bold]")

Name = Annotated[str, typer.Argument(help="The name of a fine-tuned model.")]


@app.callback()
def models(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON array, labels included.")] = False,
) -> None:
    """List the server's models, or load and unload fine-tuned ones."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from foursight.clients.cli.server import reach  # noqa: PLC0415

    cards = reach(url, api_key)
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


@app.command()
def load(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Serve a model of the server's models folder, read anew; requests go on meanwhile."""
    from foursight.clients.cli.server import asking  # noqa: PLC0415

    with asking(url, api_key) as client:
        card = client.load_model(name)
    print(f"{card.name} is served: POST {url}/v1/{card.task}?model={card.name}")


@app.command()
def unload(name: Name, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Serve a model no longer; its folder stays."""
    from foursight.clients.cli.server import asking  # noqa: PLC0415

    with asking(url, api_key) as client:
        client.unload_model(name)
    print(f"{name} is served no longer.")
