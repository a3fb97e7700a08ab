"""Tasks as loaded models: what a task's module implements, and how one is loaded and run.

The list of tasks is in schema/tasks.py.
"""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import Options
from foursight.schema.tasks import TASKS

Device = Literal["auto", "cpu", "cuda"]


class Task(Protocol):
    """What a task's `load(profile, device, precision)` gives.

    A photo goes through three steps, so that a server can run the first and last for many photos side by side while one
    thread computes: `prepare` (resize and crop; any thread), `predict` (the network, on a whole batch; one thread at a
    time), `finish` (scores to labels, boxes to pixels, masks; any thread). What passes between them is the task's own.
    """

    card: Card
    options: type[Options]
    # A large photo may be reduced before `prepare`, as long as its shorter side keeps so many pixels.
    short_side: int

    def resolve(self, options: Any) -> ResolvedRequest[Any, Any]:
        """Find the model that the options name. Raises OptionError where options do not fit it."""

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> Any:
        """Turn an upright RGB image into what `predict` takes.

        `size` is the (width, height) of the original, for boxes and masks, where the image is a reduced one.
        """

    def predict(self, batch: list[tuple[Any, Any]]) -> list[Any]:
        """Run the network once over [(prepared, request), ...]; images may have different sizes."""

    def finish(self, output: Any, request: Any) -> Predictions:
        """Turn one element of what `predict` returned into predictions in pixels of the original."""


@runtime_checkable
class SupportsFineTuned(Protocol):
    """A task that serves fine-tuned models besides its own, chosen by the option `model`."""

    def install(self, name: str, folder: Path) -> None:
        """Serve a model from its folder, in the place of one that has the name already. Raises StoreError."""

    def remove(self, name: str) -> None:
        """Serve a model no longer; requests that were resolved before are still answered."""

    def finetuned_cards(self) -> list[Card]:
        """What is served besides the task's own model; parameters and bytes are those that are not shared."""


def load(name: str, profile: Profile = "tiny", device: Device = "auto", precision: PrecisionConfig = FLOAT32) -> Task:
    """Load a task by its catalogue name, weights included; `precision` is what a CPU computes it in.

    Raises KeyError for a name that the catalogue lacks, WeightsError where the profile's weights cannot be had and
    PrecisionError where the photos to calibrate on cannot.
    """
    task: Task = import_module(TASKS[name].module).load(profile, device, precision)
    return task


def fetch(name: str) -> None:
    """Download and check the standard profile's weights of a task, where the cache lacks them. Raises WeightsError."""
    weights = import_module("foursight.models.networks.weights")
    weights.fetch(import_module(TASKS[name].module).PUBLISHED)


def run(task: Task, image: Image.Image, **options: object) -> Predictions:
    """Answer for one upright RGB image; `options` are those of the task's options class."""
    request = task.resolve(task.options(**options))
    (output,) = task.predict([(task.prepare(image), request)])
    return task.finish(output, request)
