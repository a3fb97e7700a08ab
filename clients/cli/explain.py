"""`foursight explain`: why a classifier says what it says, as a picture."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from foursight.clients.cli.extras import server_packages

PROFILES = ("tiny", "standard")
SUFFIXES = (".png", ".jpg", ".jpeg")


def explain(
    photo: Annotated[Path, typer.Argument(help="A photo.", exists=True, dir_okay=False, readable=True)],
    task: Annotated[str | None, typer.Option(help="classify: the others draw boxes by themselves.")] = None,
    label: Annotated[str | None, typer.Option(help="The label to explain; the best one without it.")] = None,
    layer: Annotated[
        str | None, typer.Option(help="Whose feature maps to show, as `foursight describe` names it.")
    ] = None,
    maps: Annotated[int, typer.Option(help="How many feature maps to show.", min=1, max=48)] = 12,
    profile: Annotated[str, typer.Option(help="tiny or standard.")] = "tiny",
    model: Annotated[str | None, typer.Option(help="A fine-tuned model: its name or path.")] = None,
    models_dir: Annotated[
        Path | None,
        typer.Option(envvar="FOURSIGHT_MODELS_DIR", show_envvar=False, help="Where --model lies.", metavar="FOLDER"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the picture: .png or .jpg.")] = Path("explained.png"),
) -> None:
    """Draw where in a photo the evidence for a label lies, and what the channels of a layer respond to."""
    if task not in (None, "classify") and model is None:
        raise typer.BadParameter(f"{task!r} cannot be explained; there is classify", param_hint="--task")
    if profile not in PROFILES:
        raise typer.BadParameter(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    if out.suffix.lower() not in SUFFIXES:
        raise typer.BadParameter(f"{out.name!r} has to end in {', '.join(SUFFIXES)}", param_hint="--out")
    with server_packages("foursight explain"):
        from foursight.clients.cli.tuned import find as find_model  # noqa: PLC0415
        from foursight.drawing.explanation import draw_explanation  # noqa: PLC0415
        from foursight.models import decode  # noqa: PLC0415
        from foursight.models.errors import ModelError  # noqa: PLC0415
        from foursight.models.finetuned import networks, store  # noqa: PLC0415
        from foursight.models.inspection.explain import explain as find  # noqa: PLC0415
        from foursight.models.inspection.explain import explain_localizer  # noqa: PLC0415
        from foursight.models.tasks import classify  # noqa: PLC0415
    try:
        image = decode(photo.read_bytes())
        tuned = find_model(model, models_dir) if model else None
        if tuned and (tuned.task in ("detect", "segment") or task not in (None, tuned.task)):
            said = f"{tuned.name!r} is for {tuned.task}; models of classify and localize can be explained"
            raise typer.BadParameter(said, param_hint="--model")
        if tuned and tuned.task == "localize":
            network = networks.load(tuned.name, tuned.folder)
            known = store.read_spec(tuned.name, tuned.folder).labels
            found, name = explain_localizer(network, known, image, label, layer, maps), tuned.name  # type: ignore[arg-type]
        else:
            # `profile` is one of PROFILES.
            loaded = classify.load(profile, "auto")  # type: ignore[arg-type]
            if tuned:
                loaded.install(tuned.name, tuned.folder)
            name = tuned.name if tuned else loaded.card.name
            found = find(loaded, image, label, layer, maps, tuned.name if tuned else None)
        draw_explanation(image, found, name).save(out, quality=90)
    except (ModelError, OSError) as error:
        listed = " `foursight describe` lists all layers." if getattr(error, "option", None) == "layer" else ""
        print(f"foursight explain: {error}{listed}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{found.label} {100 * found.score:.1f} %: {out}")
