"""The command `foursight`: its table of commands.

No command's module imports anything heavy at its top, so help is fast and works where only the client is installed.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper

import click

from foursight import __version__
from foursight.clients.cli.command import Program
from foursight.clients.cli.completion import install_option
from foursight.clients.cli.tasks import analyze_command, task_command
from foursight.schema.tasks import TASKS

_COMMANDS: dict[str, str | Callable[[], click.Command]] = {
    "serve": "foursight.clients.cli.serve:serve",
    **{name: partial(task_command, task) for name, task in TASKS.items()},
    "analyze": analyze_command,
    "models": "foursight.clients.cli.models:models",
    "keys": "foursight.clients.cli.keys:keys",
    "evaluate": "foursight.clients.cli.evaluate:evaluate",
    "finetune": "foursight.clients.cli.finetune:finetune",
    "describe": "foursight.clients.cli.describe:describe",
    "explain": "foursight.clients.cli.explain:explain",
    "benchmark": "foursight.clients.cli.benchmark:benchmark",
}

app = Program(
    "foursight",
    lazy=_COMMANDS,
    help="Vision inference: four tasks behind one address.",
    example="serve",
    params=[install_option()],
)
click.version_option(__version__, prog_name="foursight", message="%(prog)s %(version)s")(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 wrong usage, 3 no server, 130 interrupted."""
    if isinstance(sys.stdout, TextIOWrapper):
        # The name of a file may be any bytes, and labels any text: what the terminal cannot show is escaped.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
