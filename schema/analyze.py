"""The options of `POST /v1/analyze` besides those of the tasks, which it passes on."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from foursight.schema.options import Options, split_commas
from foursight.schema.tasks import TASKS

# With then=classify: the objects classified per task, best first, and the share of a box added on each side.
MAX_OBJECTS = 16
MARGIN = 0.1


def _check_tasks(names: list[str] | None) -> list[str] | None:
    if names is None:
        return None
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ValueError(f"there is no task {', '.join(map(repr, unknown))}")
    return list(dict.fromkeys(names))


class AnalyzeOptions(Options):
    """Which tasks to run, and whether to classify the objects that they find."""

    tasks: Annotated[
        list[str] | None,
        BeforeValidator(split_commas),
        AfterValidator(_check_tasks),
        Field(description=f"Tasks to run, comma-separated: {', '.join(TASKS)}. Without it, all that are served."),
    ] = None
    then: Literal["classify"] | None = Field(
        None,
        description=f"`classify`: also classify each object found (up to {MAX_OBJECTS} per task, best first; each box "
        f"is enlarged by {MARGIN:.0%} on each side).",
    )
