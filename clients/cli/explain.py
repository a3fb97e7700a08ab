"""`foursight explain`: a picture of the evidence for a classifier's answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from foursight.clients.cli.command import Argument, Command, CommandError, Option
from foursight.clients.cli.extras import required
from foursight.clients.cli.options import PATH, Number, models_dir, profile

if TYPE_CHECKING:
    from foursight.models.results import Profile
    from foursight.models.tasks.classify import Classification

SUFFIXES = (".png", ".jpg", ".jpeg")
_TASKS = ("classify", "localize")


@click.command(
    cls=Command,
    params=[
        Argument("image", metavar="FILE", type=click.Path(True, dir_okay=False, path_type=Path), help="An image."),
        Option("--task", metavar="TASK", help="classify or localize. Without it, the model's task, or classify."),
        Option("--label", metavar="LABEL", help="Label to explain. Without it, the best one."),
        Option("--layer", metavar="NAME", help="Layer whose feature maps to show, as `foursight describe` names it."),
        Option("--maps", type=Number(int, 1, 48), default=12, metavar="N", help="Number of feature maps."),
        profile(),
        Option("--model", metavar="NAME", help="A fine-tuned model: its name or its path."),
        models_dir(),
        Option(
            "--out",
            type=PATH,
            default="explained.png",
            metavar="FILE",
            help="Picture to write: .png or .jpg.",
        ),
    ],
    example="photo.jpg --label espresso --out explained.png",
)
def explain(
    image: Path,
    task: str | None,
    label: str | None,
    layer: str | None,
    maps: int,
    profile: "Profile",
    model: str | None,
    models_dir: Path | None,
    out: Path,
) -> None:
    """Draw which parts of an image speak for a label, and what the channels of a layer respond to."""
    if task not in (None, "classify") and model is None:
        raise click.UsageError(f"--task: {task!r} cannot be explained without --model. classify can.")
    if out.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"--out: {out.name!r} must end in {', '.join(SUFFIXES)}.")
    with required():
        from foursight.clients.cli import finetuned  # noqa: PLC0415
        from foursight.clients.cli.local import load_model  # noqa: PLC0415
        from foursight.drawing.explanation import draw_explanation  # noqa: PLC0415
        from foursight.models import decode  # noqa: PLC0415
        from foursight.models.errors import ModelError  # noqa: PLC0415
        from foursight.models.finetuned import networks, store  # noqa: PLC0415
        from foursight.models.inspection import explain as inspection  # noqa: PLC0415
    try:
        picture = decode(image.read_bytes())
        chosen = finetuned.find(model, models_dir) if model else None
        if chosen and (chosen.task not in _TASKS or task not in (None, chosen.task)):
            raise click.UsageError(
                f"--model: {chosen.name!r} is a model for {chosen.task}. "
                f"Models for {' and '.join(_TASKS)} can be explained."
            )
        if chosen and chosen.task == "localize":
            network: Any = networks.load(chosen.name, chosen.folder)
            labels = store.read_spec(chosen.name, chosen.folder).labels
            found = inspection.explain_localizer(network, labels, picture, label, layer, maps)
            name = chosen.name
        else:
            loaded, card = load_model("classify", chosen, profile)
            name = card.name
            classifier = cast("Classification", loaded)
            found = inspection.explain(classifier, picture, label, layer, maps, name if chosen else None)
        draw_explanation(picture, found, name).save(out, quality=90)
    except (ModelError, OSError) as error:
        listed = " `foursight describe` lists all layers." if getattr(error, "option", None) == "layer" else ""
        raise CommandError(f"{error}{listed}") from None
    print(f"{found.label} {100 * found.score:.1f} %: {out}")
