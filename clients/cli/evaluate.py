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
from foursight.clients.cli.options import PATH, Number, api_key, models_dir, profile, task
from foursight.clients.cli.problems import data_error

if TYPE_CHECKING:
    from PIL import Image

    from foursight.models.evaluation.predictor import WorstExample
    from foursight.models.results import Profile


@click.command(
    cls=Command,
    params=[
        Argument(
            "data", type=PATH, metavar="DATA",
            help="A data set: COCO, YOLO, Pascal VOC, Hugging Face, or a folder per class.",
        ),
        task(note=" Without it, the model's task, or detect for data with boxes and classify without."),
        Option("--model", metavar="NAME", help="A fine-tuned model: its name or its path."),
        models_dir(),
        Option("--images", type=PATH, metavar="FOLDER", help="Folder of the images, if not beside the COCO file."),
        Option("--classes", metavar="LABELS", help="Labels to evaluate, comma-separated."),
        Option("--limit", type=Number(int, 1), metavar="N", help="Evaluate the first N images only."),
        Option("--tiles", type=Number(int, 1, 6), default=1, metavar="N", help="Search tiles too, as detect does."),
        Option("--url", metavar="URL", help="Evaluate a model of this server and not one in this process."),
        api_key(),
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
    tiles: int,
    url: str | None,
    api_key: str | None,
    profile: "Profile",
    as_json: bool,
    worst: int,
    sheet: Path | None,
) -> int:
    """Evaluate a model on images whose answers are known.

    Of data with a split, the validation side is used. Boxes and masks: AP, AP50, AP75 and AR of pycocotools. The main
    object: MaxBoxAcc. Labels: top-1 and top-5. Labels are matched by name.
    """
    with required("server,train"):
        from foursight.clients.cli import predictors  # noqa: PLC0415
        from foursight.models.datasets import reading  # noqa: PLC0415
        from foursight.models.errors import DataError  # noqa: PLC0415
        from foursight.models.evaluation import run  # noqa: PLC0415
        from foursight.models.evaluation.predictor import EvaluationError, NoPredictionsError, Selection  # noqa: PLC0415
    try:
        found = reading.read(data, images)
        # A fine-tuned model is for one task.
        wanted = task or (None if model else "detect" if found.has_objects else "classify")
        if wanted:
            run.require(wanted, found)
        predictor = (
            predictors.from_server(url, api_key, wanted, model, tiles)
            if url
            else predictors.in_process(wanted, profile, model, models_dir, tiles)
        )
        names = [name.strip() for name in classes.split(",")] if classes else None
        with _progress() as on_progress:
            measured = run.evaluate(found, predictor, Selection(names, limit, worst, on_progress))
    except DataError as error:
        raise data_error(error, WRONG_USAGE) from None
    except EvaluationError as error:
        raise CommandError(str(error), FAILED if isinstance(error, NoPredictionsError) else WRONG_USAGE) from None
    if as_json:
        examples = [{"file": str(one.path), "what": one.caption} for one in measured.worst]
        said = {"task": predictor.task, "model": predictor.model, "data": run.describe(found)}
        print(json.dumps({**said, **measured.figures, "worst": examples}, indent=2))
    else:
        from foursight.clients.cli.evaluation_tables import make_tables  # noqa: PLC0415

        print(*run.describe(found), sep="\n")
        for table in make_tables(predictor.task, predictor.model, measured.figures):
            Console().print(table)
    if sheet:
        _draw_sheet(measured.worst, sheet)
    for failure in measured.figures["failed"]:
        print(f"{failure['file']}: {failure['error']}", file=sys.stderr)
    return FAILED if measured.figures["failed"] else 0


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
