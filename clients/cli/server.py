"""The server that a command uses. Commands check that it can be reached before they do anything else."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from foursight.clients.cli.command import FAILED, NO_SERVER, CommandError
from foursight.clients.sdk.client import Client
from foursight.clients.sdk.errors import ApiError, CannotConnect, FoursightError, InvalidAnswer, TimedOut
from foursight.schema import ModelCard


def require_server(url: str, api_key: str | None, otherwise: str = "") -> list[ModelCard]:
    """Return the server's models. If there is no server, the error says how to start one, or what to do `otherwise`."""
    with open_client(url, api_key, otherwise) as client:
        return client.models()


@contextmanager
def open_client(url: str, api_key: str | None, otherwise: str = "") -> Iterator[Client]:
    """Open a client whose errors end the command in one line: exit 3 if there is no server, otherwise 1."""
    try:
        with Client(url, api_key, retries=0) as client:
            yield client
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="'--url'") from None
    except ApiError as error:
        raise CommandError(str(error), FAILED) from None
    except (CannotConnect, TimedOut, InvalidAnswer) as error:
        raise CommandError(f"{error.message} Start a server with `foursight serve`{otherwise}.", NO_SERVER) from None
    except FoursightError as error:
        raise CommandError(str(error), FAILED) from None
