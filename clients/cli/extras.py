"""The error of a command whose packages are not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from foursight.clients.cli.command import CommandError


@contextmanager
def required(extras: str = "server") -> Iterator[None]:
    """Wrap imports of packages that only these extras install; a missing one ends the command with one line, exit 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "foursight":
            raise
        message = f"{package} is not installed. From Foursight's source folder, run: pip install '.[{extras}]'"
        raise CommandError(message) from None
