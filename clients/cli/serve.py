"""`foursight serve`."""

import typer

from foursight.clients.cli.extras import server_packages


def serve(context: typer.Context) -> None:
    """Start a server."""
    with server_packages("foursight serve"):
        from foursight.serving import command  # noqa: PLC0415
    raise typer.Exit(command.main(context.args))
