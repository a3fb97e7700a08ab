"""`foursight benchmark`: the throughput and latency of a running server."""

import asyncio
import json
from functools import partial
from io import BytesIO
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from foursight.clients import benchmark as measuring
from foursight.clients.benchmark import BenchmarkError, Report, Target
from foursight.clients.cli.command import FAILED, NO_SERVER, Argument, Command, CommandError, Option
from foursight.clients.cli.options import DEFAULT_URL, PATH, Number, api_key, task


class _Loads(click.ParamType[list[float]]):
    """Positive numbers, comma-separated."""

    name = "loads"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """Parse the numbers."""
        if isinstance(value, list):
            return value
        try:
            numbers: list[float] = [self.kind(word) for word in str(value).split(",") if word.strip()]
        except ValueError:
            numbers = [0]
        if any(number <= 0 for number in numbers):
            kind = "integers" if self.kind is int else "numbers"
            self.fail(f"must be positive {kind}, comma-separated, not {value!r}.", param, ctx)
        return numbers


@click.command(
    cls=Command,
    params=[
        Argument(
            "url", required=False, envvar="FOURSIGHT_URL", default=DEFAULT_URL, metavar="[URL]",
            help=f"The server's address, or $FOURSIGHT_URL.  [default: {DEFAULT_URL}]",
        ),
        api_key(),
        task("classify"),
        Option(
            "--image", type=PATH, multiple=True, metavar="FILE",
            help="Image to send. Repeat it to send several in turn. Without it, a generated one of 500 x 400 is sent.",
        ),
        Option(
            "--connections", type=_Loads(int), default="1,16", metavar="N,N",
            help="Closed loops: the number of connections of each.",
        ),
        Option(
            "--rate", type=_Loads(float), default="", metavar="N,N", show_default=False,
            help="Open loops: the requests per second of each, sent on schedule.",
        ),
        Option("--seconds", type=Number(float, 1), default=10, metavar="N", help="Duration of each loop."),
        Option(["--json", "as_json"], is_flag=True, help="Print the figures as JSON."),
    ],
    example="--task detect --connections 1,8 --rate 20",
)  # fmt: skip
def benchmark(
    url: str,
    api_key: str | None,
    task: str,
    image: tuple[Path, ...],
    connections: list[float],
    rate: list[float],
    seconds: float,
    as_json: bool,
) -> int:
    """Measure the requests per second and the latency (p50, p95, p99) of a running server."""
    try:
        images = [path.read_bytes() for path in image] or [_generate()]
    except OSError as error:
        raise click.UsageError(f"--image {error.filename}: {error.strerror}.") from None
    target = Target(f"{url.rstrip('/')}/v1/{task}", images, api_key=api_key)
    try:
        reports = _measure(target, connections, rate, seconds)
    except BenchmarkError as error:
        raise CommandError(f"{error}. Start a server with `foursight serve`.", NO_SERVER) from None
    if as_json:
        _print_json(target, reports)
    else:
        _print_tables(target, reports)
    return FAILED if any(one.failed or not one.answered for one in reports) else 0


def _measure(target: Target, connections: list[float], rates: list[float], seconds: float) -> list[Report]:
    """Run one loop after another, with a progress bar on a terminal. Raises BenchmarkError."""
    loops = [(f"{count:g} connections", partial(measuring.closed_loop, target, int(count))) for count in connections]
    loops += [(f"{rate:g} requests/s due", partial(measuring.open_loop, target, rate)) for rate in rates]
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    reports = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        for name, loop in loops:
            bar = bars.add_task(name, total=measuring.WARM_UP_S + seconds)
            samples = asyncio.run(loop(seconds, partial(_advance, bars, bar)))
            bars.remove_task(bar)
            reports.append(measuring.report(name, samples, seconds))
    return reports


def _advance(bars: Progress, bar: TaskID, done: float) -> None:
    bars.update(bar, completed=done)


def _print_json(target: Target, reports: list[Report]) -> None:
    loads = [report.as_json() for report in reports]
    print(json.dumps({"url": target.url, "photos": len(target.images), "loads": loads}))


def _generate() -> bytes:
    # Grain over a gradient compresses to about the size of a photo.
    from PIL import Image  # noqa: PLC0415

    grain = Image.effect_noise((500, 400), 24)
    slope = Image.linear_gradient("L").resize((500, 400))
    file = BytesIO()
    Image.merge("RGB", (grain, slope, Image.blend(grain, slope, 0.5))).save(file, "JPEG", quality=85)
    return file.getvalue()


def _print_tables(target: Target, reports: list[Report]) -> None:
    size = sum(len(image) for image in target.images) / len(target.images) / 1000
    console = Console()
    console.print(f"{target.url}, {len(target.images)} image(s) of {size:.0f} KB, {reports[0].seconds:g} s each")
    table = Table("load", box=None, header_style="bold", pad_edge=False)
    for name in ("requests/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "refused", "failed"):
        table.add_column(name, justify="right")
    for one in reports:
        latencies = (f"{value:.1f}" for value in (one.p50, one.p95, one.p99, one.longest))
        table.add_row(one.load, f"{one.rate:.1f}", *latencies, str(one.refused), str(one.failed))
    console.print(table)
    for one in reports:
        if one.cached:
            text = f"{one.load}: {one.cached} of {one.answered} answers came from the server's cache"
            console.print(f"[yellow]{text}[/yellow]", soft_wrap=True)
        if one.steps:
            steps = ", ".join(f"{name} {value:.1f}" for name, value in one.steps.items())
            console.print(f"[dim]{one.load}: mean time in the server, ms: {steps}[/dim]", soft_wrap=True)
