"""The command `foursight`."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit status: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="foursight", description="Vision inference: four tasks behind one address.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    try:
        # The server is an extra: without it the client side works alone.
        from foursight.serving import command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        serve = commands.add_parser("serve", help="start a server (needs: pip install 'foursight[server]')")
        missing = error.name
        serve.set_defaults(run=lambda _: _missing(missing))
    else:
        command.add_to(commands)
    chosen = parser.parse_args(arguments)
    status: int = chosen.run(chosen)
    return status


def _missing(package: str | None) -> int:
    print(
        f"foursight serve needs the server's packages ({package} is missing): pip install 'foursight[server]'",
        file=sys.stderr,
    )
    return 1
