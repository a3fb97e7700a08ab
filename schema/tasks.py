"""The tasks, declared once: paths, OpenAPI, command line, SDK and page derive from this table.

To add a task, add its module and one line here. Reading the table imports neither torch nor ray.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Literal

from foursight.schema.options import Options

# What a task finds in an image: its labels, the main object, all objects with boxes, or all objects with boxes and
# masks.
Finds = Literal["labels", "object", "objects", "masks"]


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    `name` is its path below /v1/ and its command. `summary` is one sentence. `module` has `load(profile, device,
    precision)`, see models/catalogue.py. `options_class` is "module:Class", in a module that imports neither torch nor
    ray.
    """

    name: str
    summary: str
    finds: Finds
    module: str
    options_class: str

    @cached_property
    def options(self) -> type[Options]:
        """The class of a request's options."""
        module, _, name = self.options_class.partition(":")
        options: type[Options] = getattr(import_module(module), name)
        return options

    @property
    def has_boxes(self) -> bool:
        """Whether the predictions have boxes."""
        return self.finds != "labels"


_MODELS, _OPTIONS = "foursight.models.tasks", "foursight.schema.options"

TASKS = {
    task.name: task
    for task in (
        TaskSpec("classify", "Label the image.", "labels", f"{_MODELS}.classify", f"{_OPTIONS}:ClassifyOptions"),
        TaskSpec("localize", "Find the main object.", "object", f"{_MODELS}.localize", f"{_OPTIONS}:LocalizeOptions"),
        TaskSpec("detect", "Find every object.", "objects", f"{_MODELS}.detect", f"{_OPTIONS}:DetectOptions"),
        TaskSpec("segment", "Outline every object.", "masks", f"{_MODELS}.segment", f"{_OPTIONS}:SegmentOptions"),
    )
}
