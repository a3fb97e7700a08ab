"""`foursight serve`."""

import sys

import typer


def serve(context: typer.Context) -> None:
    """Start a server."""
    try:
        # The server is an extra: without it the client side works alone.
        from foursight.serving import command  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(
            f"foursight serve needs the server's packages ({error.name} is missing): pip install 'foursight[server]'",
            file=sys.stderr,
        )
        raise typer.Exit(1) from None
    raise typer.Exit(command.main(context.args))
