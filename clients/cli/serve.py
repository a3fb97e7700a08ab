"""`foursight serve`: the server's settings as options, and the messages from start to stop."""

import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from foursight.clients.cli.command import FAILED, INTERRUPTED, WRONG_USAGE, Command, CommandError
from foursight.clients.cli.extras import required
from foursight.clients.cli.fields import environment_variable, explain_error, option_name, options_of

if TYPE_CHECKING:
    from foursight.serving.settings import Settings

_INTERRUPTED = "Stopped before it was ready."


class _Serve(Command):
    """A command whose options are the server's settings, which are imported only when they are needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options."""
        if not self.params:
            self.params = [*options_of(_settings())]
        return super().get_params(ctx)

    def suggest_option(self, ctx: click.Context, name: str) -> str | None:
        """Return the current name of the option `name`, or the one that was meant."""
        with required():
            from foursight.serving.settings import PREFIX, RENAMED  # noqa: PLC0415
        variable = RENAMED.get(PREFIX + name.strip("-").replace("-", "_").upper())
        if variable:
            return option_name(variable.removeprefix(PREFIX).lower(), _settings())
        return super().suggest_option(ctx, name)


@click.command(cls=_Serve, example="--port 9000 --tasks classify,detect")
def serve(**values: Any) -> int:
    """Start a server. Each option can also be set in the environment, as FOURSIGHT_NAME."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(values)
    except KeyboardInterrupt:
        raise CommandError(_INTERRUPTED, INTERRUPTED) from None


def _serve(values: dict[str, Any]) -> int:
    settings = _read(
        {name: list(value) if name == "models" else value for name, value in values.items() if value not in (None, ())}
    )
    with required():
        from foursight.serving import launch, logs, supervisor  # noqa: PLC0415
    start = time.monotonic()
    say = partial(logs.say, settings.log_format)
    say(f"Starting Foursight ({settings.profile} profile): {', '.join(settings.tasks)} ...")
    try:
        with launch.running(settings, f"foursight serve: {_INTERRUPTED}") as server:
            say(_greeting(server.address, settings, time.monotonic() - start))
            supervisor.watch(server.stop)
            say("\nStopping ...")
    except launch.LaunchError as error:
        raise CommandError(str(error), FAILED) from None
    say("Stopped.")
    return 0


def _settings() -> "type[Settings]":
    with required():
        from foursight.serving.settings import Settings  # noqa: PLC0415
    return Settings


def _read(values: dict[str, Any]) -> "Settings":
    """Return the settings, from these options and the environment. All problems are named, one per line."""
    settings = _settings()
    try:
        return settings(**values)
    except ValidationError as error:
        problems = [_describe(settings, details) for details in error.errors(include_url=False)]
        raise CommandError("\n".join(problems), WRONG_USAGE) from None


def _describe(settings: "type[Settings]", details: Any) -> str:
    name = str(details["loc"][0]) if details["loc"] else ""
    if name not in settings.model_fields:
        return str(details["msg"]).removeprefix("Value error, ")
    variable = environment_variable(settings, name)
    return f"Invalid value for '{option_name(name, settings)}' ({variable}): {explain_error(settings, name, details)}"


def _greeting(address: str, settings: "Settings", seconds: float) -> str:
    task = "detect" if "detect" in settings.tasks else settings.tasks[0]
    header = "-H 'Authorization: Bearer KEY' " if settings.needs_keys else ""
    keys = f"  keys      {settings.keys_file}\n" if settings.needs_keys else ""
    return (
        f"\nReady after {seconds:.0f} s.\n\n"
        f"  address   {address}\n"
        f"  page      {address}/\n"
        f"{keys}"
        f"  try       curl {header}--data-binary @photo.jpg {address}/v1/{task}\n"
        f"  picture   curl {header}--data-binary @photo.jpg -H 'Accept: image/png' {address}/v1/{task} -o drawn.png\n\n"
        "Press Ctrl-C to stop."
    )
