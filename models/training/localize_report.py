"""A fine-tuned localizer's folder: its model card, training curve, and which label was taken for which."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from foursight.models.finetuned import localizer
from foursight.models.training import report
from foursight.models.training.localize import Options, Outcome
from foursight.models.training.objects import ObjectSet
from foursight.models.training.report import CONFUSION, CURVES


def write(folder: Path, data: ObjectSet, options: Options, outcome: Outcome, extra: dict[str, Any]) -> None:
    """Write the model's folder, whole or not at all. `extra` goes into the card: the command, the peak memory."""
    card = describe(data, options, outcome) | extra
    pictures = {
        CURVES: report.curves(
            outcome.epochs, outcome.best, "loss", {"label": "label", "box": "box (IoU 0.5)", "both": "both"}
        ),
        CONFUSION: report.confusion(outcome.confusion, outcome.labels),
    }
    spec = localizer.spec_of(outcome.own, outcome.shared, outcome.labels)
    report.fill(folder, outcome.tensors, spec, card, page(folder.name, card), pictures)


def describe(data: ObjectSet, options: Options, outcome: Outcome) -> dict[str, Any]:
    """The model card: data, split, options, figures, versions."""
    best = outcome.epochs[outcome.best]
    counts, right = outcome.confusion.sum(1).tolist(), outcome.confusion.diagonal().tolist()
    rows = zip(outcome.labels, data.count(data.training), counts, right, strict=True)
    return {
        "task": "localize",
        "backbone": localizer.BACKBONE,
        "own": outcome.own,
        "made": report.now(),
        "data": report.of_data(data, *outcome.starts),
        "options": options.model_dump(mode="json"),
        "validation": {
            "label_and_box": round(best.both, 4),
            "label": round(best.label, 4),
            "box_iou_50": round(best.box, 4),
            "epoch": outcome.best + 1,
        },
        "classes": [
            {"label": label, "training": seen, "validation": count, "recall": round(hit / count, 4) if count else None}
            for label, seen, count, hit in rows
        ],
        "epochs": [{name: round(value, 4) for name, value in asdict(epoch).items()} for epoch in outcome.epochs],
        "interrupted": outcome.interrupted,
        "parameters": sum(tensor.numel() for tensor in outcome.tensors.values()),
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "versions": report.versions(),
    }


def page(name: str, card: dict[str, Any]) -> str:
    """The card for people, in Markdown."""
    figures = card["validation"]
    rows = "\n".join(
        f"| {one['label']} | {one['training']} | {one['validation']} | "
        f"{'-' if one['recall'] is None else format(one['recall'], '.3f')} |"
        for one in card["classes"]
    )
    stopped = " Training was interrupted: this is the best epoch until then." if card["interrupted"] else ""
    own = "labels over the shipped votes" if card["own"] == "labels" else "votes and labels"
    return (
        f"# {name}\n\n"
        f"A localizer of {len(card['classes'])} labels, fine-tuned from {card['backbone']} on {card['made'][:10]}: "
        f"{own} of its own.\n\n"
        "Validation, the largest object of each photo: label and box (IoU 0.5) right "
        f"**{figures['label_and_box']:.3f}**, label {figures['label']:.3f}, box {figures['box_iou_50']:.3f}, "
        f"at epoch {figures['epoch']} of {len(card['epochs'])}. "
        f"The epoch was chosen by these same photos, so expect a little less elsewhere.{stopped}\n\n"
        f"![Loss and figures by epoch]({CURVES})\n![Confusion matrix]({CONFUSION})\n\n"
        "| label | photos trained on | validated on | label right |\n|---|---|---|---|\n"
        f"{rows}\n\n" + report.ending(card)
    )
