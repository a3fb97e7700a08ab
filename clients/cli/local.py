"""`--local`: the answers that a server would send, from models in this process."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, cast

import click
from PIL import Image
from pydantic import ValidationError

from foursight.clients.cli import finetuned
from foursight.clients.cli.command import CommandError
from foursight.clients.cli.extras import required
from foursight.clients.cli.fields import explain_error, option_name
from foursight.clients.cli.unknown_names import unknown_label
from foursight.clients.sdk.errors import to_api_error
from foursight.clients.sdk.images import ImageInput, load
from foursight.clients.sdk.many import Failed, in_order
from foursight.clients.sdk.rescale import rescale
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ImageSize
from foursight.schema.tasks import TASKS

with required():
    from foursight import models
    from foursight.models.catalogue import SupportsFineTuned, Task
    from foursight.models.results import Card, Profile
    from foursight.serving.encoding import to_answer
    from foursight.serving.errors import problem

Many = Callable[[list[ImageInput]], Generator[Result | Analysis | Failed, None, None]]


def load_model(task: str, model: finetuned.FineTuned | None = None, profile: Profile = "tiny") -> tuple[Task, Card]:
    """Load a task and, if one is given, a fine-tuned model into it. Raises ModelError."""
    loaded = models.load(task, profile)
    if model is None:
        return loaded, loaded.card
    # Every task of the catalogue supports fine-tuned models.
    host = cast("SupportsFineTuned", loaded)
    host.install(model.name, model.folder)
    (card,) = host.finetuned_cards()
    return loaded, card


def local_many(task: str, options: Mapping[str, Any], max_side: int | None) -> Many:
    """Load the models and return a function that answers a list of images, one by one, as a server would."""
    if "then" in options:
        raise click.UsageError("--then needs a server. It excludes --local.")
    answers = _load_all(task, options)

    def analyze(image: ImageInput) -> Analysis:
        upload = load(image, max_side)
        decoded = _decode(upload.content)
        size = upload.size or decoded.size
        results = {name: rescale(answer(decoded), size) for name, answer in answers.items()}
        analysis = Analysis(image=ImageSize(width=size[0], height=size[1]), tasks=dict(results))
        analysis._original = upload.original
        return analysis

    def ask(image: ImageInput) -> Result:
        analysis = analyze(image)
        result = analysis[task]
        result._original = analysis._original
        return result

    if task == "analyze":
        return lambda images: in_order(analyze, images, concurrency=1, progress=len(images) > 1)
    return lambda images: in_order(ask, images, concurrency=1, progress=len(images) > 1)


def _load_all(task: str, options: Mapping[str, Any]) -> dict[str, Callable[[Image.Image], Result]]:
    """Return each requested task by name, as a function from an upright RGB image to its result."""
    names = options.get("tasks") or list(TASKS) if task == "analyze" else [task]
    known = {name: TASKS[name].options.model_fields for name in names}
    for option in options:
        if option != "tasks" and not any(option in fields for fields in known.values()):
            raise click.UsageError(f"{option_name(option)} is not an option of {', '.join(names)}.")
    try:
        model = finetuned.find(options["model"]) if "model" in options else None
    except models.ModelError as error:
        raise click.UsageError(f"--model: {error}") from None
    if model and model.task not in names:
        raise click.UsageError(f"--model: {model.name!r} is a model for {model.task}.")
    try:
        return {
            name: _answerer(
                name,
                {option: value for option, value in options.items() if option in known[name] and option != "model"},
                model if model and model.task == name else None,
            )
            for name in names
        }
    except models.ModelError as error:
        raise CommandError(str(error)) from None


def _answerer(name: str, options: dict[str, Any], model: finetuned.FineTuned | None) -> Callable[[Image.Image], Result]:
    loaded, card = load_model(name, model)
    try:
        chosen = loaded.options.model_validate(options | ({"model": card.name} if model else {}))
        request = loaded.resolve(chosen)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        field = str(details["loc"][0])
        said = f"{option_name(field)}: {explain_error(loaded.options, field, details)}"
        raise click.UsageError(f"{name}: {said}") from None
    except models.OptionError as error:
        if error.code != "unknown_class":
            raise
        raise click.UsageError(f"--classes: {unknown_label(options['classes'], card.labels)}") from None

    from foursight.models import catalogue  # noqa: PLC0415

    def answer(image: Image.Image) -> Result:
        found = catalogue.answer(loaded, image, request)
        wire = to_answer(card.name, image.size, found, getattr(chosen, "mask_format", "none"))
        return Result.model_validate_json(wire.model_dump_json(exclude_none=True))

    return answer


def _decode(content: bytes) -> Image.Image:
    try:
        return models.decode(content)
    except models.ImageError as error:
        raise to_api_error(problem(error.code, error.detail, error.hint)) from error
