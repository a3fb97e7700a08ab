"""`foursight benchmark`: how fast the server at hand is."""

import asyncio
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from foursight.clients import benchmark as measuring
from foursight.clients.benchmark import BenchmarkError, Report, Target


def benchmark(
    url: Annotated[str, typer.Argument(help="The server's address.", envvar="FOURSIGHT_URL")] = "http://127.0.0.1:8000",
    task: Annotated[str, typer.Option(help="classify, localize, detect or segment.")] = "classify",
    image: Annotated[
        list[Path] | None, typer.Option(help="Photos to upload in turn; without it one of 500 x 400 is made.")
    ] = None,
    connections: Annotated[str, typer.Option(help="Closed loops: each so many connections.")] = "1,16",
    rate: Annotated[str, typer.Option(help="Open loops: each so many requests a second, on time.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="Length of each.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure requests per second and latency (p50, p95, p99) of a running server."""
    try:
        loops = [("connections", float(int(count))) for count in _numbers(connections)]
        loops += [("requests/s due", float(count)) for count in _numbers(rate)]
        photos = [path.read_bytes() for path in image] if image else [_photo()]
    except ValueError:
        raise typer.BadParameter("--connections and --rate are positive numbers with commas between.") from None
    except OSError as error:
        raise typer.BadParameter(f"--image {error.filename}: {error.strerror}.") from None
    target = Target(f"{url.rstrip('/')}/v1/{task}", photos)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    reports = []
    try:
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            for kind, count in loops:
                load = f"{count:g} {kind}"
                bar = bars.add_task(load, total=measuring.WARM_UP + seconds)

                def advance(done: float, bar: object = bar) -> None:
                    bars.update(bar, completed=done)  # type: ignore[arg-type]

                if kind == "connections":
                    samples = asyncio.run(measuring.closed_loop(target, int(count), seconds, advance))
                else:
                    samples = asyncio.run(measuring.open_loop(target, count, seconds, advance))
                bars.remove_task(bar)
                reports.append(measuring.report(load, samples, seconds))
    except BenchmarkError as error:
        print(f"foursight benchmark: {error}. `foursight serve` starts one.", file=sys.stderr)
        raise typer.Exit(3) from None
    if as_json:
        print(json.dumps({"url": target.url, "photos": len(photos), "loads": [one.as_json() for one in reports]}))
    else:
        _print(target, reports)
    if any(one.failed or not one.answered for one in reports):
        raise typer.Exit(1)


def _numbers(text: str) -> list[str]:
    numbers = [word.strip() for word in text.split(",") if word.strip()]
    if any(float(number) <= 0 for number in numbers):
        raise ValueError(text)
    return numbers


def _photo() -> bytes:
    # Grain over a gradient weighs as much as a photo of this size does.
    from PIL import Image  # noqa: PLC0415

    grain = Image.effect_noise((500, 400), 24)
    slope = Image.linear_gradient("L").resize((500, 400))
    file = BytesIO()
    Image.merge("RGB", (grain, slope, Image.blend(grain, slope, 0.5))).save(file, "JPEG", quality=85)
    return file.getvalue()


def _print(target: Target, reports: list[Report]) -> None:
    size = sum(len(photo) for photo in target.photos) / len(target.photos) / 1000
    console = Console()
    console.print(f"{target.url}, {len(target.photos)} photo(s) of {size:.0f} KB, {reports[0].seconds:g} s each")
    table = Table("load", box=None, header_style="bold", pad_edge=False)
    for name in ("requests/s", "p50 ms", "p95 ms", "p99 ms", "longest", "refused", "failed"):
        table.add_column(name, justify="right")
    for one in reports:
        latencies = (f"{value:.1f}" for value in (one.p50, one.p95, one.p99, one.longest))
        table.add_row(one.load, f"{one.rate:.1f}", *latencies, str(one.refused), str(one.failed))
    console.print(table)
    for one in reports:
        if one.cached:
            text = f"{one.load}: {one.cached} of {one.answered} answers came from the server's cache, not computed"
            console.print(f"[yellow]{text}[/yellow]", soft_wrap=True)
        if one.steps:
            steps = ", ".join(f"{name} {value:.1f}" for name, value in one.steps.items())
            console.print(f"[dim]{one.load}: mean in the server, ms: {steps}[/dim]", soft_wrap=True)
