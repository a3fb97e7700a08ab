"""`--local`: the same answers without a server, from the models in this process."""

import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any
from urllib.parse import urlencode

import typer
from PIL import Image

from foursight.clients.cli.extras import server_packages
from foursight.clients.cli.server import FAILED
from foursight.clients.sdk.errors import to_api_error
from foursight.clients.sdk.images import ImageInput, load
from foursight.clients.sdk.many import Failed, in_order
from foursight.clients.sdk.rescale import rescale
from foursight.clients.sdk.results import Analysis, Result
from foursight.schema import ImageSize

Many = Callable[[list[ImageInput]], Generator[Result | Analysis | Failed, None, None]]


def local_many(task: str, options: Mapping[str, Any], max_side: int | None) -> Many:
    """What answers a list of images as the server would. The models are loaded now; photos are answered one by one."""
    if "then" in options:
        raise typer.BadParameter("--then needs a server: it does not go with --local")
    with server_packages("--local"):
        answers = _load(task, options)

    def ask_all(image: ImageInput) -> Analysis:
        upload = load(image, max_side)
        picture = _decode(upload.content)
        size = upload.size or picture.size
        results = {name: rescale(answer(picture), size) for name, answer in answers.items()}
        analysis = Analysis(image=ImageSize(width=size[0], height=size[1]), tasks=dict(results))
        analysis._original = upload.original
        return analysis

    def ask(image: ImageInput) -> Result:
        analysis = ask_all(image)
        result = analysis[task]
        result._original = analysis._original
        return result

    if task == "analyze":
        return lambda images: in_order(ask_all, images, concurrency=1, progress=len(images) > 1)
    return lambda images: in_order(ask, images, concurrency=1, progress=len(images) > 1)


def _load(task: str, options: Mapping[str, Any]) -> dict[str, Callable[[Image.Image], Result]]:
    """By its name, each task that is asked, ready to answer an upright RGB picture."""
    from foursight import models  # noqa: PLC0415

    if task != "analyze":
        return {task: _answerer(task, options)}
    names = [name.strip() for name in options["tasks"].split(",")] if "tasks" in options else list(models.TASKS)
    unknown = [name for name in names if name not in models.TASKS]
    if unknown:
        raise typer.BadParameter(f"--tasks: there is no {', '.join(unknown)}; there are {', '.join(models.TASKS)}")
    knows = {name: models.TASKS[name].options.model_fields for name in names}
    strange = [option for option in options if option != "tasks" and not any(option in knows[name] for name in names)]
    if strange:
        raise typer.BadParameter(f"--{strange[0].replace('_', '-')}: no option of {', '.join(names)}")
    return {
        name: _answerer(name, {option: value for option, value in options.items() if option in knows[name]})
        for name in names
    }


def _answerer(name: str, options: Mapping[str, Any]) -> Callable[[Image.Image], Result]:
    # The server's own steps from options to answer; none of these modules imports ray.
    from foursight import models  # noqa: PLC0415
    from foursight.serving.encoding import to_answer  # noqa: PLC0415
    from foursight.serving.query import parse_options  # noqa: PLC0415

    try:
        task = models.load(name)
        chosen = parse_options(urlencode(options), task.options)
        request = task.resolve(chosen)
    except models.OptionError as error:
        raise typer.BadParameter(str(error)) from None
    except models.WeightsError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(FAILED) from None

    def answer(picture: Image.Image) -> Result:
        (output,) = task.predict([(task.prepare(picture), request)])
        found = task.finish(output, request)
        wire = to_answer(task.card.name, picture.size, found, getattr(chosen, "mask_format", "none"))
        return Result.model_validate_json(wire.model_dump_json(exclude_none=True))

    return answer


def _decode(content: bytes) -> Image.Image:
    from foursight import models  # noqa: PLC0415
    from foursight.serving.errors import problem  # noqa: PLC0415

    try:
        return models.decode(content)
    except models.ImageError as error:
        raise to_api_error(problem(error.code, error.detail, error.hint)) from error
