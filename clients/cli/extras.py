"""What a command says where the packages of the server, which are an extra, are not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def server_packages(who: str) -> Iterator[None]:
    """Around the imports that `who`, a command or an option, has from the server: without them one line, exit 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        print(
            f"{who} needs the server's packages ({error.name} is missing): pip install 'foursight[server]'",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
