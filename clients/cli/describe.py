"""`foursight describe`: what a model's layers do, as a table, or the arithmetic of one convolution."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from foursight.clients.cli.command import Argument, Command, Option
from foursight.clients.cli.convolution import describe_convolution
from foursight.clients.cli.extras import required
from foursight.clients.cli.layer_cells import COLUMNS, rows_of, short
from foursight.clients.cli.options import Number, models_dir, profile
from foursight.schema import LayerTable
from foursight.schema.layers import parse_size
from foursight.schema.tasks import TASKS

if TYPE_CHECKING:
    from foursight.models.results import Profile

WIDTH = 100


class _Size(click.ParamType[tuple[int, int]]):
    """The input size of a network: N or WIDTHxHEIGHT."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse to (height, width)."""
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


@click.command(
    cls=Command,
    params=[
        Argument(
            "model", required=False, metavar="MODEL", help=f"{', '.join(TASKS)}, or a fine-tuned model's name or path."
        ),
        profile(),
        Option("--size", type=_Size(), metavar="WxH", help="Input of the network in pixels; one number for a square."),
        Option(
            "--conv",
            type=(int, int, int, str),
            metavar="W K S P",
            help="One convolution instead of a model: input, kernel, stride and padding (N, BEFORE+AFTER, or same).",
        ),
        Option("--dilation", type=Number(int, 1), default=1, metavar="N", help="Dilation of --conv."),
        Option("--transposed", is_flag=True, help="Make --conv a transposed convolution."),
        models_dir(),
        Option(["--json", "as_json"], is_flag=True, help="Print every layer and every figure as JSON."),
    ],
    example="detect --profile standard --size 800x608",
)
def describe(
    model: str | None,
    profile: "Profile",
    size: tuple[int, int] | None,
    conv: tuple[int, int, int, str] | None,
    dilation: int,
    transposed: bool,
    models_dir: Path | None,
    as_json: bool,
) -> int:
    """Show a model's layers: kernel, stride, padding, sizes, receptive field, parameters, multiply-adds.

    `describe --conv 224 7 2 3` computes one convolution.
    """
    if (conv is None) == (model is None):
        raise click.UsageError(f"Give either a model ({', '.join(TASKS)}, or a name) or --conv W K S P.")
    if conv is not None:
        return describe_convolution(*conv, dilation=dilation, transposed=transposed, as_json=as_json)
    table = _summarize(model or "", profile, size, models_dir)
    if as_json:
        print(table.model_dump_json(indent=2))
    else:
        show(table)
    return 0


def _summarize(model: str, profile: "Profile", size: tuple[int, int] | None, models_dir: Path | None) -> LayerTable:
    with required():
        from foursight.clients.cli.finetuned import find  # noqa: PLC0415
        from foursight.models.errors import ModelError  # noqa: PLC0415
        from foursight.models.finetuned import networks  # noqa: PLC0415
        from foursight.models.inspection import summary  # noqa: PLC0415
    try:
        if model in TASKS:
            title, network = f"{model} ({profile})", summary.build(model, profile)
        else:
            found = find(model, models_dir)
            title, network = f"{found.name} ({found.task})", networks.load(found.name, found.folder)
    except ModelError as error:
        raise click.UsageError(f"{error} Built-in models: {', '.join(TASKS)}.") from None
    return LayerTable.model_validate({"model": title, **asdict(summary.summarize(network, size))})


def show(table: LayerTable) -> None:
    """Print a table of layers, at most WIDTH columns wide."""
    console = Console(highlight=False, width=WIDTH)
    height, width = table.size
    console.print(f"[bold]{table.model}[/bold], input 3 x {height} x {width} (channels x height x width)\n")
    sections = [(stage, rows_of(stage)) for stage in table.stages]
    rows = iter(_render([row for _, stage_rows in sections for row in stage_rows], console))
    print(next(rows))
    for stage, stage_rows in sections:
        times = max(layer.times for layer in stage.layers)
        note = f", for each of up to {times} regions" if times > 1 else ""
        console.print(f"[bold cyan]{stage.name}[/bold cyan]{note}")
        for _ in stage_rows:
            print(next(rows))
    unused = f", {short(table.unused_parameters)} of which this task does not use" if table.unused_parameters else ""
    regions = f", up to {short(table.region_multiply_adds)} of which for regions" if table.region_multiply_adds else ""
    console.print(
        f"\n{short(table.parameters)} parameters{unused};\n"
        f"{short(table.multiply_adds)} multiply-adds{regions}.\n"
        "[dim]kernel / stride; padding of each side, or before+after; one number where height and width are equal;\n"
        "field: receptive field in pixels / its stride @ the centre of the first cell's field.[/dim]"
    )


def _render(rows: list[list[str]], console: Console) -> list[str]:
    """Return the lines of a table of layers: its header, then one for each row, with the stages between them."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    # If the table is too wide, names lose their beginning; figures are never cut.
    room = WIDTH - sum(widths[1:]) - len(widths) + 1
    for (title, justify), width in zip(COLUMNS.items(), [min(widths[0], room), *widths[1:]], strict=True):
        table.add_column(title, justify=justify, no_wrap=True, width=width)
    for name, *figures in rows:
        table.add_row(name if len(name) <= room else f"…{name[len(name) - room + 1 :]}", *figures)
    with console.capture() as capture:
        console.print(table, markup=False)
    return [line.rstrip() for line in capture.get().splitlines()]
