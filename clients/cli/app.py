"""The command `foursight`. Each command is a function in a module of `commands/`, registered here.

A command's module imports nothing heavy at its top, so that `foursight --help` answers at once and works where only the
client is installed.
"""

import sys
from collections.abc import Sequence

import typer

from foursight.clients.cli import models
from foursight.clients.cli.benchmark import benchmark
from foursight.clients.cli.describe import describe
from foursight.clients.cli.evaluate import evaluate
from foursight.clients.cli.explain import explain
from foursight.clients.cli.finetune import finetune
from foursight.clients.cli.serve import serve
from foursight.clients.cli.tasks import analyze, classify, detect, localize, segment

app = typer.Typer(
    name="foursight",
    help="Vision inference: four tasks behind one address.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
# serve's options are those of the server's settings, which it reads itself.
app.command(
    "serve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(serve)
for command, example in (
    (benchmark, "--task detect --connections 1,8 --rate 20"),
    (classify, "photo.jpg --top-k 3"),
    (localize, "photo.jpg --draw drawn.png"),
    (detect, "holiday/ --classes dog,person --draw drawn/"),
    (segment, "photo.jpg --mask-format polygon --json > photo.json"),
    (analyze, "photo.jpg --tasks classify,detect --then classify"),
    (evaluate, "coco/instances.json --sheet worst.png"),
    (describe, "detect --profile standard --size 800x608"),
    (explain, "photo.jpg --label espresso --out explained.png"),
    (finetune, "fruit/ --name fruit --pool max --epochs 10"),
):
    app.command(command.__name__, epilog=f"Example: [bold]foursight {command.__name__} {example}[/bold]")(command)
app.add_typer(models.app, name="models")


@app.callback()
def _foursight() -> None:
    """Vision inference: four tasks behind one address."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the result is the exit status: 0 done, 1 (some) failed, 2 wrong usage, 3 no server."""
    try:
        app(args=arguments, prog_name="foursight")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
