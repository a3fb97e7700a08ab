"""The query of POST /v1/analyze: the tasks, the classification that may follow, and the options of each task."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from foursight.models.errors import OptionError
from foursight.schema.analyze import AnalyzeOptions
from foursight.schema.options import ClassifyOptions, Options
from foursight.schema.tasks import TASKS
from foursight.serving import query

TASKS_WITH_BOXES = tuple(name for name, task in TASKS.items() if task.has_boxes)


@dataclass(frozen=True)
class AnalyzeRequest:
    """The options of each task, and those for classifying the objects found (None: they are not classified)."""

    tasks: dict[str, Options]
    then: ClassifyOptions | None


def read_query(
    text: str, served: tuple[str, ...], task_of: Callable[[str], str | None] = lambda name: None
) -> AnalyzeRequest:
    """Parse a query string into the options of the served tasks.

    Each task gets the options that it accepts. `task_of` returns the task of a fine-tuned model; the other tasks answer
    with their built-in models. Raises OptionError: unknown_parameter if no task has a parameter, invalid_parameter if a
    task that has it does not accept the value.
    """
    values = query.parse_query(text)
    own = query.to_options(_only(values, AnalyzeOptions.model_fields), AnalyzeOptions)
    names = tuple(own.tasks or served)
    _check_tasks(names, own.then, served)
    classes = {name: TASKS[name].options for name in names}
    # Objects are classified with `top_k` alone: `classes` and thresholds belong to the tasks that find them.
    for_objects = ("top_k",) if own.then else ()
    fields = (field for options_class in classes.values() for field in options_class.model_fields)
    valid = dict.fromkeys((*AnalyzeOptions.model_fields, *fields, *for_objects))
    for name in values:
        if name not in valid:
            raise query.unknown_parameter(name, [AnalyzeOptions, *classes.values(), ClassifyOptions], valid)
    owner = task_of(values["model"][0]) if "model" in values else None
    return AnalyzeRequest(
        tasks={
            task: query.to_options(
                _only(values, (n for n in options_class.model_fields if n != "model" or owner in (None, task))),
                options_class,
            )
            for task, options_class in classes.items()
        },
        then=query.to_options(_only(values, for_objects), ClassifyOptions) if own.then else None,
    )


def _check_tasks(names: tuple[str, ...], then: str | None, served: tuple[str, ...]) -> None:
    absent = [name for name in (*names, *([then] if then else [])) if name not in served]
    if absent:
        raise OptionError(
            "invalid_parameter", f"The task {absent[0]!r} is not served.", f"Valid tasks: {', '.join(served)}."
        )
    if then and not set(names) & set(TASKS_WITH_BOXES):
        raise OptionError(
            "invalid_parameter",
            f"then={then} needs a task that finds objects; tasks={','.join(names)} has none.",
            f"Add one of {', '.join(TASKS_WITH_BOXES)}.",
        )


def _only(values: dict[str, list[str]], names: Iterable[str]) -> dict[str, list[str]]:
    return {name: values[name] for name in names if name in values}
