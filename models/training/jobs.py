"""What a fine-tuning is, task by task: its options, its data, the training, and what is written and said of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from foursight.models.engines import devices
from foursight.models.errors import OptionError
from foursight.models.networks import backbone
from foursight.models.networks.head import HeadSpec
from foursight.models.results import Profile
from foursight.models.training import (
    dataset,
    detector,
    detector_report,
    finetune,
    localize,
    localize_report,
    objects,
    report,
)
from foursight.models.training.loop import Report

Task = Literal["classify", "localize", "detect", "segment"]


@dataclass(frozen=True)
class Job:
    """A fine-tuning whose data was read and is good.

    `said` are lines on the data; `train` gives the task's own Outcome, from a function that is told how far it is, and
    the folder for a checkpoint; `write` fills a model's folder; `told` is the figure of an Outcome in words.
    """

    said: tuple[str, ...]
    train: Callable[[Report, Path], Any]
    write: Callable[[Path, Any, dict[str, Any]], None]
    told: Callable[[Any], str]


def plan(task: Task, data: Sequence[Path], given: Mapping[str, Any], profile: Profile, device: str) -> Job:
    """Read the data for a task; `given` are the options that were chosen, by name, the others are at their defaults.

    Raises OptionError (unknown_parameter, invalid_parameter) and DataError (no_data, bad_data).
    """
    if task == "classify":
        return _classify(data, given, profile, device)
    if profile != "tiny":
        raise OptionError(
            "invalid_parameter",
            f"--profile {profile} is for classify: of {task} only tiny's network takes new labels.",
            "Leave it out.",
        )
    return _localize(data, given, device) if task == "localize" else _find(task, data, given, device)


def _classify(data: Sequence[Path], given: Mapping[str, Any], profile: Profile, device: str) -> Job:
    kind, known = finetune.Options, _fields(HeadSpec)
    head = {name: value for name, value in given.items() if name in known}
    rest = {name: value for name, value in given.items() if name not in known}
    options = _options("classify", rest, kind, {"head": head} if head else {}, known)
    if len(data) > 1:
        raise OptionError("invalid_parameter", "classify takes one folder.", "Put the classes' folders into one.")
    examples = dataset.read(data[0], options.seed)
    base = backbone.load(profile)
    return Job(
        (
            f"{len(examples.labels)} classes, {len(examples.training)} examples to train on and "
            f"{len(examples.validation)} to validate on (split: {examples.split}).",
            *(f"note: {note}" for note in examples.notes),
        ),
        lambda told, work: finetune.finetune(examples, base, options, devices.resolve(device), told, work),
        lambda folder, outcome, extra: report.write(folder, examples, base, options, outcome, extra),
        lambda outcome: f"top-1 {outcome.epochs[outcome.best].accuracy:.3f}",
    )


def _find(task: detector.Task, data: Sequence[Path], given: Mapping[str, Any], device: str) -> Job:
    options = _options(task, given, detector.Options)
    found = objects.read(data, options.seed, options.split, masks=task == "segment")
    seen, held_back = (sum(found.count(photos)) for photos in (found.training, found.validation))
    return Job(
        (
            f"{len(found.labels)} labels, {len(found.training)} photos ({seen} objects) to train on and "
            f"{len(found.validation)} ({held_back}) to validate on (split: {found.split}).",
            *(f"note: {note}" for note in found.notes),
        ),
        lambda told, work: detector.finetune(found, task, options, devices.resolve(device), told, work),
        lambda folder, outcome, extra: detector_report.write(folder, found, options, outcome, extra),
        lambda outcome: ", ".join(
            f"{kind} AP {figures.overall['ap'] or 0:.3f}, AP50 {figures.overall['ap50'] or 0:.3f}"
            for kind, figures in outcome.measured.items()
        ),
    )


def _localize(data: Sequence[Path], given: Mapping[str, Any], device: str) -> Job:
    options = _options("localize", given, localize.Options)
    found = localize.largest(objects.read(data, options.seed, options.split, masks=False))
    return Job(
        (
            f"{len(found.labels)} labels, {len(found.training)} photos to train on and {len(found.validation)} to "
            f"validate on, each with its largest object (split: {found.split}).",
            *(f"note: {note}" for note in found.notes),
        ),
        lambda told, work: localize.finetune(found, options, devices.resolve(device), told, work),
        lambda folder, outcome, extra: localize_report.write(folder, found, options, outcome, extra),
        lambda outcome: "label and box right {0.both:.3f}, label {0.label:.3f}".format(outcome.epochs[outcome.best]),
    )


def _options(
    task: str, given: Mapping[str, Any], kind: type[Any], more: Mapping[str, Any] = {}, known: Sequence[str] = ()
) -> Any:
    fields = [name for name in _fields(kind) if name != "head"]
    unknown = [name for name in given if name not in fields]
    if unknown:
        names = ", ".join(f"--{name}" for name in (*fields, *known))
        raise OptionError("unknown_parameter", f"--{unknown[0]} is not for {task}.", f"It has {names}.")
    try:
        return kind.model_validate({**given, **more})
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{first['loc'][-1]}: " if first["loc"] else ""
        wrong = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise OptionError("invalid_parameter", f"{option}{wrong}.", "--help lists what there is.") from None


def _fields(kind: type[BaseModel]) -> list[str]:
    return list(kind.model_fields)
