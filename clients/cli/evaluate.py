"""`foursight evaluate`: measure a model on images whose answers are known."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from foursight.clients.cli.command import FAILED, WRONG_USAGE, Argument, Command, CommandError, Option
from foursight.clients.cli.extras import required
from foursight.clients.cli.options import PATH, Number, models_dir, profile, task

if TYPE_CHECKING:
    from PIL import Image

    from foursight.models.evaluation.predictor import WorstExample
    from foursight.models.results import Profile


@click.command(
    cls=Command,
    params=[
        Argument(
            "data", type=PATH, metavar="DATA", help="A COCO file or, for classify, a folder with a subfolder per label."
        ),
        task(note=" Without it, the model's task, or classify for a folder and detect for a COCO file."),
        Option("--model", metavar="NAME", help="A fine-tuned model: its name or its path."),
        models_dir(),
        Option("--images", type=PATH, metavar="FOLDER", help="Folder of the images, if not beside the COCO file."),
        Option("--classes", metavar="LABELS", help="Labels to evaluate, comma-separated."),
        Option("--limit", type=Number(int, 1), metavar="N", help="Evaluate the first N images only."),
        Option("--url", metavar="URL", help="Evaluate a model of this server and not one in this process."),
        profile(),
        Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of tables."),
        Option("--worst", type=Number(int, 0, 100), default=16, metavar="N", help="Number of worst images to report."),
        Option("--sheet", type=PATH, metavar="FILE", help="Draw the worst images on one picture."),
    ],
    example="coco/instances.json --sheet worst.png",
)  # fmt: skip
def evaluate(
    data: Path,
    task: str | None,
    model: str | None,
    models_dir: Path | None,
    images: Path | None,
    classes: str | None,
    limit: int | None,
    url: str | None,
    profile: "Profile",
    as_json: bool,
    worst: int,
    sheet: Path | None,
) -> int:
    """Evaluate a model on images whose answers are known.

    Boxes and masks: AP, AP50, AP75 and AR of pycocotools. The main object: MaxBoxAcc. Labels: top-1 and top-5. Labels
    are matched by name.
    """
    with required("server,train"):
        from foursight.clients.cli import predictors  # noqa: PLC0415
        from foursight.models.evaluation import run  # noqa: PLC0415
        from foursight.models.evaluation.predictor import EvaluationError, NoPredictionsError, Selection  # noqa: PLC0415
    # A fine-tuned model is for one task.
    wanted = task or (None if model else "classify" if data.is_dir() else "detect")
    try:
        if wanted:
            run.require_data(wanted, data)
        predictor = (
            predictors.from_server(url, wanted, model)
            if url
            else predictors.in_process(wanted, profile, model, models_dir)
        )
        names = [name.strip() for name in classes.split(",")] if classes else None
        with _progress() as on_progress:
            found = run.evaluate(data, images, predictor, Selection(names, limit, worst, on_progress))
    except EvaluationError as error:
        raise CommandError(str(error), FAILED if isinstance(error, NoPredictionsError) else WRONG_USAGE) from None
    if as_json:
        examples = [{"file": str(one.path), "what": one.caption} for one in found.worst]
        print(
            json.dumps({"task": predictor.task, "model": predictor.model, **found.figures, "worst": examples}, indent=2)
        )
    else:
        from foursight.clients.cli.evaluation_tables import make_tables  # noqa: PLC0415

        for table in make_tables(predictor.task, predictor.model, found.figures):
            Console().print(table)
    if sheet:
        _draw_sheet(found.worst, sheet)
    for failure in found.figures["failed"]:
        print(f"{failure['file']}: {failure['error']}", file=sys.stderr)
    return FAILED if found.figures["failed"] else 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, if that is a terminal; yield the function that moves it."""
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _draw_sheet(examples: "Sequence[WorstExample]", file: Path) -> None:
    from foursight.drawing.sheet import contact_sheet  # noqa: PLC0415

    contact_sheet([(_draw_example(one), one.caption) for one in examples]).save(file)


def _draw_example(example: "WorstExample") -> "Image.Image":
    """Return the image with its predictions and, if the true boxes are known, the image with these beside it."""
    from PIL import Image, ImageOps  # noqa: PLC0415

    from foursight.drawing.draw import draw  # noqa: PLC0415

    image = ImageOps.exif_transpose(Image.open(example.path)).convert("RGB")
    if not example.truth:
        return draw(image, example.predicted)
    pair = Image.new("RGB", (2 * image.width, image.height))
    pair.paste(draw(image, example.predicted), (0, 0))
    pair.paste(draw(image, example.truth), (image.width, 0))
    return pair
