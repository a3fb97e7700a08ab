"""The server that a command asks: whether it is there is found out before anything else is done."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import CannotConnect, FoursightError, InvalidAnswer, TimedOut
from foursight.schema import ModelCard

FAILED, NO_SERVER = 1, 3


def reach(url: str, api_key: str | None, otherwise: str = "") -> list[ModelCard]:
    """The server's models. Where there is none, a line says how to start one, or what to do `otherwise`; exit 3."""
    with asking(url, api_key, otherwise) as client:
        return client.models()


@contextmanager
def asking(url: str, api_key: str | None, otherwise: str = "") -> Iterator[Client]:
    """A client whose errors end the command, each in one line: exit 3 where there is no server, otherwise 1."""
    try:
        with Client(url, api_key, retries=0) as client:
            yield client
    except ValueError as error:
        raise typer.BadParameter(f"--url: {error}") from None
    except (CannotConnect, TimedOut, InvalidAnswer) as error:
        print(f"{error.message} Start a server with `foursight serve`{otherwise}.", file=sys.stderr)
        raise typer.Exit(NO_SERVER) from None
    except FoursightError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(FAILED) from None
