"""Write a fine-tuned model's folder: tensors, model.json, the model card (JSON and Markdown) and plots."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import BaseModel
from torch import Tensor

from foursight.models.finetuned import classifier as finetuned_classifier
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned import store
from foursight.models.networks import stages
from foursight.models.networks.backbone import Backbone
from foursight.models.training import classifier, localizer, plots
from foursight.models.training.classification_data import Dataset
from foursight.models.training.detection_data import DetectionDataset

CURVES, CONFUSION, CARD = "training.png", "confusion.png", "card.json"
PACKAGES = ("foursight-vision", "torch", "torchvision", "safetensors", "pycocotools")
CHOSEN_BY_VALIDATION = "The epoch was chosen on the same images, so expect slightly worse results elsewhere."


@dataclass(frozen=True)
class Summary:
    """The parts of the Markdown page that depend on the kind of model: sentences, and the table of the labels."""

    description: str
    validation: str
    chosen: str
    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]


def write_classifier(
    folder: Path,
    data: Dataset,
    base: Backbone,
    options: classifier.Options,
    outcome: classifier.Outcome,
    extra: Mapping[str, Any],
) -> None:
    """Write a classifier's folder. `extra` is added to the card: the command, the peak memory."""
    best = outcome.epochs[outcome.best]
    counts = [sum(sample.label == label for sample in data.training) for label in range(len(data.labels))]
    classes = _recalls(outcome.labels, counts, outcome.confusion)
    seen = outcome.confusion.sum(1)
    recalls = (outcome.confusion.diagonal()[seen > 0] / seen[seen > 0]).double()
    validation = {
        "top1": round(best.accuracy, 4),
        "top5": round(outcome.top5, 4),
        "mean_class_recall": round(float(recalls.mean()), 4),
        "loss": round(best.validation_loss, 4),
    }
    card = make_card("classify", base.name, data, options, outcome, validation, classes, extra) | {
        "features_cached": outcome.cached,
        "parameters": sum(parameter.numel() for parameter in outcome.model.parameters()),
    }
    summary = Summary(
        f"A classifier fine-tuned from {base.name}",
        f"top-1 **{validation['top1']:.3f}**, top-5 {validation['top5']:.3f}, mean recall of the classes "
        f"{validation['mean_class_recall']:.3f}, cross-entropy {validation['loss']:.3f}",
        CHOSEN_BY_VALIDATION,
        ("training", "validation", "recall"),
        _recall_rows(classes),
    )
    pictures = {
        CURVES: plots.curves(outcome.epochs, outcome.best, "cross-entropy", {"accuracy": "accuracy"}),
        CONFUSION: plots.confusion(outcome.confusion, outcome.labels),
    }
    fingerprint = stages.fingerprint(stages.split(base.network))
    spec = finetuned_classifier.spec_of(base, outcome.model, fingerprint, outcome.labels)
    write(folder, outcome.model.state_dict(), spec, card, summary, pictures)


def write_localizer(
    folder: Path,
    data: DetectionDataset,
    options: localizer.Options,
    outcome: localizer.Outcome,
    extra: Mapping[str, Any],
) -> None:
    """Write a localizer's folder. `extra` is added to the card: the command, the peak memory."""
    best = outcome.epochs[outcome.best]
    classes = _recalls(outcome.labels, data.count(data.training), outcome.confusion)
    validation = {
        "label_and_box": round(best.both, 4),
        "label": round(best.label, 4),
        "box_iou_50": round(best.box, 4),
    }
    backbone = finetuned_localizer.BACKBONE
    card = make_card("localize", backbone, data, options, outcome, validation, classes, extra, outcome.starts) | {
        "own": outcome.own,
        "parameters": sum(tensor.numel() for tensor in outcome.tensors.values()),
    }
    own = "with the built-in box votes" if outcome.own == "labels" else "with its own box votes"
    summary = Summary(
        f"A localizer fine-tuned from {backbone}, {own}",
        f"label and box (IoU 0.5) of the largest object right **{best.both:.3f}**, label {best.label:.3f}, "
        f"box {best.box:.3f}",
        CHOSEN_BY_VALIDATION,
        ("training images", "validation images", "label right"),
        _recall_rows(classes),
    )
    figures = {"label": "label", "box": "box (IoU 0.5)", "both": "both"}
    pictures = {
        CURVES: plots.curves(outcome.epochs, outcome.best, "loss", figures),
        CONFUSION: plots.confusion(outcome.confusion, outcome.labels),
    }
    spec = finetuned_localizer.spec_of(outcome.own, outcome.shared, outcome.labels)
    write(folder, outcome.tensors, spec, card, summary, pictures)


def _recalls(labels: Sequence[str], training: Sequence[int], confusion: Tensor) -> list[dict[str, Any]]:
    rows = zip(labels, training, confusion.sum(1).tolist(), confusion.diagonal().tolist(), strict=True)
    return [
        {"label": label, "training": seen, "validation": count, "recall": round(hits / count, 4) if count else None}
        for label, seen, count, hits in rows
    ]


def _recall_rows(classes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[row["label"], str(row["training"]), str(row["validation"]), shown(row["recall"])] for row in classes]


def make_card(
    task: str,
    backbone: str,
    data: Dataset | DetectionDataset,
    options: BaseModel,
    outcome: Any,
    validation: Mapping[str, Any],
    classes: Sequence[Mapping[str, Any]],
    extra: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the model card: data, options, validation, classes, epochs, versions. `outcome` is the task's Outcome."""
    return {
        "task": task,
        "backbone": backbone,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": {
            "training": len(data.training),
            "validation": len(data.validation),
            "split": data.split,
            "fingerprint": data.fingerprint(),
            "notes": [*data.notes, *notes],
        },
        "options": options.model_dump(mode="json"),
        "validation": {**validation, "epoch": outcome.best + 1},
        "classes": list(classes),
        "epochs": [_rounded(asdict(epoch)) for epoch in outcome.epochs],
        "interrupted": outcome.interrupted,
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        **extra,
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    spec: dict[str, object],
    card: dict[str, Any],
    summary: Summary,
    pictures: Mapping[str, Figure],
) -> None:
    """Write a model's folder, whole or not at all; `spec` is model.json without the SHA-256 of the tensors."""
    with store.writing(folder) as new:
        for name, content in store.pack(tensors, spec).items():
            (new / name).write_bytes(content)
        for name, picture in pictures.items():
            picture.savefig(new / name)
        (new / CARD).write_text(json.dumps(card, indent=2) + "\n")
        (new / "README.md").write_text(_page(folder.name, card, summary, list(pictures)))


def _page(name: str, card: Mapping[str, Any], summary: Summary, pictures: Sequence[str]) -> str:
    """Return the model card in Markdown."""
    data, options = card["data"], dict(card["options"])
    options |= options.pop("head", {})
    stopped = " Training was interrupted; this is the best epoch until then." if card["interrupted"] else ""
    table = [("label", *summary.head), ("---",) * (1 + len(summary.head)), *summary.rows]
    notes = "".join(f"- {note}\n" for note in data["notes"])
    memory = f"; peak memory {card['peak_memory_mib']} MiB" if "peak_memory_mib" in card else ""
    return (
        f"# {name}\n\n"
        f"{summary.description}: {len(card['classes'])} labels, trained on {card['made'][:10]}.\n\n"
        f"Validation: {summary.validation}, at epoch {card['validation']['epoch']} of {len(card['epochs'])}. "
        f"{summary.chosen}{stopped}\n\n"
        + "\n".join(f"![{Path(picture).stem}]({picture})" for picture in pictures)
        + "\n\n"
        + "".join(f"| {' | '.join(row)} |\n" for row in table)
        + f"\n## Data\n\n{data['training']} training examples, {data['validation']} validation examples. "
        f"Split: {data['split']}.\n\n{notes}\n"
        f"## Training\n\n`{card.get('command', '')}`\n\n"
        f"Options: {', '.join(f'{option} {value}' for option, value in options.items())}. "
        f"{card['parameters']:,} own parameters.\n\n"
        f"Time: {', '.join(f'{phase} {value} s' for phase, value in card['seconds'].items())}{memory}. "
        f"Versions: {', '.join(f'{package} {number}' for package, number in card['versions'].items())}. "
        f"The machine-readable card is [{CARD}]({CARD}).\n"
    )


def shown(value: float | None) -> str:
    """Return a figure with three digits, or a dash for None."""
    return "-" if value is None else f"{value:.3f}"
