"""Plan a fine-tuning run of any task: check the options, read the data, and return functions that train and write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError

from foursight.models.engines import devices
from foursight.models.errors import OptionError
from foursight.models.networks import backbone
from foursight.models.networks.head import HeadSpec
from foursight.models.results import Profile
from foursight.models.training import classification_data, classifier, detection_data, detector, localizer, report
from foursight.models.training.loop import OnProgress

Task = Literal["classify", "localize", "detect", "segment"]


@dataclass(frozen=True)
class Job:
    """A run whose options and data are valid.

    `messages` describe the data. `train` takes a progress callback and the folder for checkpoints, and returns the
    task's Outcome; `write` fills a model's folder from it; `summarize` returns its validation figures as text.
    """

    messages: tuple[str, ...]
    train: Callable[[OnProgress, Path], Any]
    write: Callable[[Path, Any, dict[str, Any]], None]
    summarize: Callable[[Any], str]


def plan(task: Task, data: Sequence[Path], given: Mapping[str, Any], profile: Profile, device: str) -> Job:
    """Check options and read the data of a task; `given` has the options by name, others keep their defaults.

    Raises OptionError (unknown_parameter, invalid_parameter) and DataError (no_data, bad_data).
    """
    if task == "classify":
        return _classify(data, given, profile, device)
    if profile != "tiny":
        raise OptionError(
            "invalid_parameter",
            f"The profile {profile!r} can be fine-tuned for classify only.",
            f"For {task}, use the profile 'tiny'.",
            option="profile",
        )
    return _localize(data, given, device) if task == "localize" else _detect(task, data, given, device)


def _classify(data: Sequence[Path], given: Mapping[str, Any], profile: Profile, device: str) -> Job:
    head = {name: value for name, value in given.items() if name in HeadSpec.model_fields}
    options = _options("classify", classifier.Options, given, head)
    if len(data) > 1:
        raise OptionError(
            "invalid_parameter", "classify takes one folder.", "Put the folders of the classes into one.", option="data"
        )
    examples = classification_data.read(data[0], options.seed)
    base = backbone.load(profile)
    return Job(
        (
            f"Read {examples.source}.",
            f"{len(examples.labels)} classes ({', '.join(examples.labels)}): "
            f"{len(examples.training)} training examples, "
            f"{len(examples.validation)} validation examples (split: {examples.split}).",
            *(f"note: {note}" for note in examples.notes),
        ),
        lambda on_progress, work: classifier.finetune(
            examples, base, options, _torch_device(device), on_progress, work
        ),
        lambda folder, outcome, extra: report.write_classifier(folder, examples, base, options, outcome, extra),
        lambda outcome: f"top-1 {outcome.epochs[outcome.best].accuracy:.3f}",
    )


def _localize(data: Sequence[Path], given: Mapping[str, Any], device: str) -> Job:
    options = _options("localize", localizer.Options, given)
    found = localizer.keep_largest(detection_data.read(data, options.seed, options.split, masks=False))
    return Job(
        (
            f"Read {found.source}.",
            f"{len(found.labels)} labels ({', '.join(found.labels)}): {len(found.training)} training images, "
            f"{len(found.validation)} validation images, each with its largest object (split: {found.split}).",
            *(f"note: {note}" for note in found.notes),
        ),
        lambda on_progress, work: localizer.finetune(found, options, _torch_device(device), on_progress, work),
        lambda folder, outcome, extra: report.write_localizer(folder, found, options, outcome, extra),
        lambda outcome: "label and box right {0.both:.3f}, label {0.label:.3f}".format(outcome.epochs[outcome.best]),
    )


def _detect(task: detector.Task, data: Sequence[Path], given: Mapping[str, Any], device: str) -> Job:
    options = _options(task, detector.Options, given)
    if task == "detect" and options.freeze != "all":
        raise OptionError(
            "invalid_parameter",
            "detect is trained with freeze=all only: there is nothing else to train but masks.",
            "Leave the option out, or train segment.",
            option="freeze",
        )
    found = detection_data.read(data, options.seed, options.split, masks=task == "segment")
    training, validation = (sum(found.count(images)) for images in (found.training, found.validation))
    return Job(
        (
            f"Read {found.source}.",
            f"{len(found.labels)} labels ({', '.join(found.labels)}): "
            f"{len(found.training)} training images ({training} objects), "
            f"{len(found.validation)} validation images ({validation} objects) (split: {found.split}).",
            *(f"note: {note}" for note in found.notes),
        ),
        lambda on_progress, work: detector.finetune(found, task, options, _torch_device(device), on_progress, work),
        lambda folder, outcome, extra: detector.write(folder, found, options, outcome, extra),
        lambda outcome: ", ".join(
            f"{kind} AP {metrics.overall['ap'] or 0:.3f}, AP50 {metrics.overall['ap50'] or 0:.3f}"
            for kind, metrics in outcome.metrics.items()
        ),
    )


def _options(task: str, kind: type[Any], given: Mapping[str, Any], head: Mapping[str, Any] | None = None) -> Any:
    """Validate options; those in `head` are fields of the option of that name."""
    names = [name for name in kind.model_fields if name != "head"]
    if head is not None:
        names += HeadSpec.model_fields
    for name in given:
        if name not in names:
            raise OptionError(
                "unknown_parameter",
                f"{name!r} is not an option for fine-tuning {task}.",
                f"The options are {', '.join(names)}.",
                option=name,
            )
    values = {name: value for name, value in given.items() if name not in (head or {})}
    try:
        return kind.model_validate(values | ({"head": head} if head else {}))
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][-1]) if first["loc"] else None
        problem = first["msg"].removeprefix("Value error, ")
        problem += "" if problem.endswith(".") else "."
        raise OptionError(
            "invalid_parameter",
            f"Invalid value for {option!r}: {problem}" if option else problem,
            _valid(kind, option),
            option=option,
        ) from None


def _valid(kind: type[BaseModel], option: str | None) -> str:
    field = (kind.model_fields | HeadSpec.model_fields).get(option or "")
    return f"The default is {field.default!r}." if field is not None else ""


def _torch_device(device: str) -> torch.device:
    return torch.device(devices.resolve(device))
