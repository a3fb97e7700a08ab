"""Tasks as loaded models: what a task's module implements, and how one is loaded and run.

The list of tasks is in schema/tasks.py.
"""

from collections.abc import Callable
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
    """What the `load` of a task's module returns.

    An image goes through three steps, so that a server can run the first and the last in many threads while one thread
    computes: `prepare` (resize and crop; any thread), `predict` (the network, on a batch; one thread at a time) and
    `finish` (scores to labels, boxes to pixels, masks; any thread). The types between the steps are the task's own.
    """

    card: Card
    options: type[Options]
    # A large image may be reduced before `prepare` if its shorter side keeps this many pixels.
    short_side: int

    def resolve(self, options: Any) -> ResolvedRequest[Any, Any]:
        """Look up the model and the classes that the options name. Raises OptionError."""

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> Any:
        """Turn an upright RGB image into an input of `predict`.

        `size` is the (width, height) of the original if the image was reduced; boxes and masks refer to it.
        """

    def predict(self, batch: list[tuple[Any, Any]]) -> list[Any]:
        """Run the network on [(prepared, request), ...] and return one output each; images may differ in size."""

    def finish(self, output: Any, request: Any) -> Predictions:
        """Turn an output of `predict` into predictions, in pixels of the original image."""


@runtime_checkable
class SupportsTiles(Protocol):
    """A task that can also search the tiles of an image, by the option `tiles`."""

    def prepare_views(self, image: Image.Image, request: Any, size: tuple[int, int] | None = None) -> list[Any]:
        """Turn an image into inputs of `predict`: the whole image, then its tiles."""

    def join(self, outputs: list[Any], request: Any) -> Any:
        """Join the outputs for the views of an image into one."""


@runtime_checkable
class SupportsFineTuned(Protocol):
    """A task that also serves fine-tuned models, which requests choose by the option `model`."""

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a model, read from its folder. Returns a function that undoes it.

        Raises StoreError, and then changes nothing.
        """

    def remove(self, name: str) -> None:
        """Remove a model; requests that were resolved before are still answered."""

    def finetuned_cards(self) -> list[Card]:
        """Return the cards of the fine-tuned models; they count only parameters and bytes that are not shared."""


def load(name: str, profile: Profile = "tiny", device: Device = "auto", precision: PrecisionConfig = FLOAT32) -> Task:
    """Load a task with its weights; `precision` applies only to CPUs.

    Raises KeyError for an unknown name, WeightsError if the weights of the profile are not available, and
    PrecisionError if the images to calibrate on cannot be read.
    """
    task: Task = import_module(TASKS[name].module).load(profile, device, precision)
    return task


def fetch(name: str) -> None:
    """Download a task's weights of the standard profile unless they are cached. Raises WeightsError."""
    weights = import_module("foursight.models.networks.weights")
    weights.fetch(import_module(TASKS[name].module).published())


def run(task: Task, image: Image.Image, **options: object) -> Predictions:
    """Return a task's predictions for one upright RGB image; `options` are the fields of `task.options`.

    Raises OptionError, and pydantic's ValidationError for a value out of range.
    """
    request = task.resolve(task.options(**options))
    return answer(task, image, request)


def answer(task: Task, image: Image.Image, request: ResolvedRequest[Any, Any]) -> Predictions:
    """Return the predictions for one upright RGB image and a resolved request."""
    outputs = [task.predict([(one, request)])[0] for one in prepare(task, image, request)]
    return task.finish(join(task, outputs, request), request)


def prepare(
    task: Task, image: Image.Image, request: ResolvedRequest[Any, Any], size: tuple[int, int] | None = None
) -> list[Any]:
    """Return the inputs of `predict` for one image: several if the request asks for tiles."""
    return task.prepare_views(image, request, size) if isinstance(task, SupportsTiles) else [task.prepare(image, size)]


def join(task: Task, outputs: list[Any], request: ResolvedRequest[Any, Any]) -> Any:
    """Return the one output of an image from those for its inputs."""
    return task.join(outputs, request) if isinstance(task, SupportsTiles) else outputs[0]
