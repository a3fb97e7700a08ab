"""`foursight serve`: the settings as options, and what a person sees from start to end."""

import argparse
import sys
import time
from collections.abc import Sequence

from pydantic import ValidationError

from foursight.serving import launch
from foursight.serving.settings import Settings


def main(words: Sequence[str]) -> int:
    """Run `foursight serve` with these words of the command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="foursight serve",
        description="Start a server. Each option can be set as FOURSIGHT_NAME in the environment as well.",
        epilog="Example: foursight serve --port 9000 --tasks classify,detect",
    )
    parser.add_argument(
        "--model",
        dest="models",
        metavar="NAME=PATH",
        action="append",
        default=argparse.SUPPRESS,
        help=Settings.model_fields["models"].description,
    )
    for name, field in Settings.model_fields.items():
        if name == "models":
            continue
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            metavar=name.upper(),
            default=argparse.SUPPRESS,
            help=f"{field.description} ({default})",
        )
    try:
        settings = Settings(**vars(parser.parse_args(words)))
    except ValidationError as error:
        for problem in error.errors():
            option = f"--{str(problem['loc'][0]).replace('_', '-')}: " if problem["loc"] else ""
            print(f"foursight serve: {option}{problem['msg']}", file=sys.stderr)
        return 2
    start = time.monotonic()
    print(f"Starting Foursight ({settings.profile} profile): {', '.join(settings.tasks)} ...", flush=True)
    try:
        with launch.running(settings) as address:
            _greet(address, settings, time.monotonic() - start)
            launch.wait_for_signal()
            print("\nStopping ...", flush=True)
    except launch.LaunchError as error:
        print(f"foursight serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped before it was ready.", file=sys.stderr)
        return 130
    print("Stopped.")
    return 0


def _greet(address: str, settings: Settings, seconds: float) -> None:
    task = "detect" if "detect" in settings.tasks else settings.tasks[0]
    print(
        f"\nReady after {seconds:.0f} s.\n\n"
        f"  address   {address}\n"
        f"  page      {address}/\n"
        f"  try       curl --data-binary @photo.jpg {address}/v1/{task}\n"
        f"  picture   curl --data-binary @photo.jpg -H 'Accept: image/png' {address}/v1/{task} -o drawn.png\n\n"
        "Ctrl-C stops it.",
        flush=True,
    )
