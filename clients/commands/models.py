"""`foursight models`."""

import sys
from typing import Annotated

import typer

from foursight.commands.common import DEFAULT_URL, ApiKey, Url


def models(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON array, labels included.")] = False,
) -> None:
    """List the server's models."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from foursight.commands.server import reach  # noqa: PLC0415

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
