"""The commands that answer images: one for each task of schema/tasks.py, and `analyze`."""

from copy import copy
from dataclasses import fields
from typing import Any

import click
from pydantic import create_model
from pydantic.fields import FieldInfo

from foursight.clients.cli.command import Command
from foursight.clients.cli.fields import option_name, options_of
from foursight.clients.cli.options import Shared, shared_parameters
from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.options import Options
from foursight.schema.suggest import suggest
from foursight.schema.tasks import TASKS, Finds, TaskSpec

_EXAMPLES: dict[Finds, str] = {
    "labels": "photo.jpg --top-k 3",
    "object": "photo.jpg --draw drawn.png",
    "objects": "holiday/ --classes dog,person --draw drawn/",
    "masks": "photo.jpg --mask-format polygon --json > photo.json",
}


class TaskCommand(Command):
    """A command whose options are those of a request, and `shared_parameters`."""

    def __init__(self, name: str, model: type[Options], help: str, example: str) -> None:
        parameters = [*shared_parameters(), *options_of(model)]
        super().__init__(name, params=parameters, callback=self._answer, help=help, example=example)
        self.model = model

    def suggest_option(self, ctx: click.Context, name: str) -> str | None:
        """Return the option that `name` was meant to be; other libraries' names are understood too."""
        field = suggest(name, self.model)
        return option_name(field) if field else super().suggest_option(ctx, name)

    def _answer(self, **values: Any) -> int:
        # Answering needs httpx, numpy and Pillow; the help does not.
        from foursight.clients.cli.answer import answer  # noqa: PLC0415

        shared = Shared(**{field.name: values.pop(field.name) for field in fields(Shared)})
        return answer(self.name or "", {name: value for name, value in values.items() if value is not None}, shared)


def task_command(task: TaskSpec) -> Command:
    """Return the command of a task."""
    return TaskCommand(task.name, task.options, task.summary, _EXAMPLES[task.finds])


def analyze_command() -> Command:
    """`foursight analyze`."""
    text = "Run several tasks on one upload of each image."
    return TaskCommand("analyze", _analyze_options(), text, "photo.jpg --tasks classify,detect --then classify")


def _analyze_options() -> type[Options]:
    """Return the options of `analyze` and, after them, those of all tasks.

    Where tasks differ in an option, the field of the first one is used, without its default; the server checks the
    value.
    """
    models: list[type[Options]] = [AnalyzeOptions, *(task.options for task in TASKS.values())]
    found: dict[str, FieldInfo] = {}
    for model in models:
        for name, field in model.model_fields.items():
            if found.setdefault(name, field).default != field.default:
                found[name] = copy(found[name])
                found[name].default = None
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in found.items()}
    return create_model("AllOptions", __base__=Options, **fields)
