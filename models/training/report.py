"""A fine-tuned model's folder: tensors, model.json, and for people a model card and pictures; here a classifier's."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from foursight.models.finetuned import classifier, store
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.training.dataset import Dataset
from foursight.models.training.finetune import Options, Outcome
from foursight.models.training.objects import ObjectSet

CURVES, CONFUSION, CARD = "training.png", "confusion.png", "card.json"
# More labels than this would overlap on the axes.
NAMED_LABELS = 60


def write(
    folder: Path, data: Dataset, base: Backbone, options: Options, outcome: Outcome, extra: dict[str, Any]
) -> None:
    """Write the model's folder, whole or not at all. `extra` goes into the card: the command, the peak memory."""
    fingerprint = stages.fingerprint(stages.split(base.network))
    spec = classifier.spec_of(base, outcome.model, fingerprint, outcome.labels)
    card = describe(data, base, options, outcome) | extra
    pictures = {
        CURVES: curves(outcome.epochs, outcome.best, "cross-entropy", {"accuracy": "accuracy"}),
        CONFUSION: confusion(outcome.confusion, outcome.labels),
    }
    fill(folder, outcome.model.state_dict(), spec, card, page(folder.name, card), pictures)


def fill(
    folder: Path,
    tensors: Mapping[str, Tensor],
    spec: dict[str, object],
    card: dict[str, Any],
    page: str,
    pictures: dict[str, Figure],
) -> None:
    """Write a model's folder, whole or not at all; `spec` is model.json without the SHA-256 of the tensors."""
    with store.writing(folder) as new:
        for name, content in store.pack(tensors, spec).items():
            (new / name).write_bytes(content)
        for name, picture in pictures.items():
            picture.savefig(new / name)
        (new / CARD).write_text(json.dumps(card, indent=2) + "\n")
        (new / "README.md").write_text(page)


def of_data(data: Dataset | ObjectSet, *more: str) -> dict[str, Any]:
    """What a card says of the data; `more` are further notes."""
    return {
        "training": len(data.training),
        "validation": len(data.validation),
        "split": data.split,
        "fingerprint": data.fingerprint(),
        "notes": [*data.notes, *more],
    }


def versions() -> dict[str, str]:
    """The versions of what made a model."""
    names = ("foursight", "torch", "torchvision", "safetensors", "pycocotools")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def now() -> str:
    """The time as a card has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(data: Dataset, base: Backbone, options: Options, outcome: Outcome) -> dict[str, Any]:
    """The model card: data, split, options, figures, versions."""
    counts = outcome.confusion.sum(1).tolist()
    right = outcome.confusion.diagonal().tolist()
    best = outcome.epochs[outcome.best]
    trained = [0] * len(data.labels)
    for sample in data.training:
        trained[sample.label] += 1
    recalls = [hit / count for hit, count in zip(right, counts, strict=True) if count]
    return {
        "task": "classify",
        "backbone": base.name,
        "made": now(),
        "data": of_data(data),
        "options": options.model_dump(mode="json"),
        "validation": {
            "top1": round(best.accuracy, 4),
            "top5": round(outcome.top5, 4),
            "mean_class_recall": round(sum(recalls) / len(recalls), 4),
            "loss": round(best.validation_loss, 4),
            "epoch": outcome.best + 1,
        },
        "classes": [
            {"label": label, "training": seen, "validation": count, "recall": round(hit / count, 4) if count else None}
            for label, seen, count, hit in zip(data.labels, trained, counts, right, strict=True)
        ],
        "epochs": [{name: round(value, 4) for name, value in asdict(epoch).items()} for epoch in outcome.epochs],
        "interrupted": outcome.interrupted,
        "features_cached": outcome.cached,
        "parameters": sum(parameter.numel() for parameter in outcome.model.parameters()),
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "versions": versions(),
    }


def page(name: str, card: dict[str, Any]) -> str:
    """The card for people, in Markdown."""
    figures, data, options = card["validation"], card["data"], card["options"]
    head = options["head"]
    rows = "\n".join(
        f"| {one['label']} | {one['training']} | {one['validation']} | "
        f"{'-' if one['recall'] is None else format(one['recall'], '.3f')} |"
        for one in card["classes"]
    )
    notes = "".join(f"- {note}\n" for note in data["notes"])
    stopped = " Training was interrupted: this is the best epoch until then." if card["interrupted"] else ""
    return (
        f"# {name}\n\n"
        f"A classifier of {len(card['classes'])} labels, fine-tuned from {card['backbone']} on {card['made'][:10]}.\n\n"
        f"Validation: top-1 **{figures['top1']:.3f}**, top-5 {figures['top5']:.3f}, mean recall of the classes "
        f"{figures['mean_class_recall']:.3f}, cross-entropy {figures['loss']:.3f}, at epoch {figures['epoch']} of "
        f"{len(card['epochs'])}. "
        f"The epoch was chosen by these same photos, so expect a little less elsewhere.{stopped}\n\n"
        f"![Loss and accuracy by epoch]({CURVES})\n![Confusion matrix]({CONFUSION})\n\n"
        "| label | training | validation | recall |\n|---|---|---|---|\n"
        f"{rows}\n\n"
        f"## Data\n\n{data['training']} examples to train on, {data['validation']} to validate on. "
        f"Split: {data['split']}.\n\n{notes}\n"
        "## Training\n\n"
        f"Frozen: {options['freeze']}. Head: pooling {head['pool']}, dropout {head['dropout']}, "
        f"hidden {head['hidden'] or 'none'}. "
        f"At most {options['epochs']} epochs, batch {options['batch']}, learning rate {options['lr']}, "
        f"seed {options['seed']}, augmentation {'on' if options['augment'] else 'off'}. "
        f"{card['parameters']:,} parameters of its own.\n\n"
        f"`{card.get('command', '')}`\n\n" + _last_line(card)
    )


def ending(card: dict[str, Any]) -> str:
    """The end of a page: data, options, time, versions."""
    data = card["data"]
    notes = "".join(f"- {note}\n" for note in data["notes"])
    memory = f", peak memory {card['peak_memory_mib']} MiB" if "peak_memory_mib" in card else ""
    return (
        f"## Data\n\n{data['training']} photos to train on, {data['validation']} to validate on. "
        f"Split: {data['split']}.\n\n{notes}\n"
        f"## Training\n\n{', '.join(f'{name} {value}' for name, value in card['options'].items())}. "
        f"{card['parameters']:,} parameters of its own.\n\n"
        f"`{card.get('command', '')}`\n\n"
        f"{', '.join(f'{name} {value} s' for name, value in card['seconds'].items())}{memory}. " + _last_line(card)
    )


def _last_line(card: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    return f"Versions: {versions}. All of this, machine-readable: [{CARD}]({CARD}).\n"


def curves(epochs: Sequence[Any], best: int, loss: str, figures: dict[str, str]) -> Figure:
    """Losses and validation figures by epoch, the best epoch marked; `figures`: an epoch's fields with their titles."""
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    losses, right = figure.subplots(1, 2)
    numbers = range(1, len(epochs) + 1)
    losses.plot(numbers, [epoch.loss for epoch in epochs], label="training")
    losses.plot(numbers, [epoch.validation_loss for epoch in epochs], label="validation")
    losses.set(xlabel="epoch", ylabel=loss, ylim=(0, None))
    for name, title in figures.items():
        right.plot(numbers, [getattr(epoch, name) for epoch in epochs], label=title)
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    for axes in (losses, right):
        axes.legend()
        axes.axvline(best + 1, color="0.6", linestyle=":")
        axes.grid(alpha=0.3)
    return figure


def confusion(counts: Tensor, labels: tuple[str, ...]) -> Figure:
    """Row: true class, column: best label; shades are shares of the row, numbers are counts."""
    matrix = counts.numpy()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3 + 0.42 * len(labels), 22)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    shade = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= NAMED_LABELS:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        for row, column in zip(*matrix.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(shade, label="share of the true class")
    return figure
