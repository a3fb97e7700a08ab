"""Prints what is wrong with a data set."""

import sys
from typing import TYPE_CHECKING

from foursight.clients.cli.command import FAILED, CommandError

if TYPE_CHECKING:
    from foursight.models.errors import DataError

_SHOWN = 20


def data_error(error: "DataError", status: int = FAILED) -> CommandError:
    """Print the first problems of a data set, and return the error that ends the command."""
    for line in error.problems[:_SHOWN]:
        print(f"  {line}", file=sys.stderr)
    if len(error.problems) > _SHOWN:
        print(f"  ... and {len(error.problems) - _SHOWN} more", file=sys.stderr)
    return CommandError(str(error), status)
