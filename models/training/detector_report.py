"""A fine-tuned detector's or segmenter's folder: its model card, training curve and precision-recall curves."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from foursight.models.evaluation.measure import Measured
from foursight.models.finetuned import detector
from foursight.models.training import report
from foursight.models.training.detector import Options, Outcome
from foursight.models.training.objects import ObjectSet
from foursight.models.training.report import CURVES

PRECISION_RECALL = "precision-recall.png"
# More lines than this could not be told apart.
NAMED_LINES = 10


def write(folder: Path, data: ObjectSet, options: Options, outcome: Outcome, extra: dict[str, Any]) -> None:
    """Write the model's folder, whole or not at all. `extra` goes into the card: the command, the peak memory."""
    spec = detector.spec_of(outcome.task, outcome.own, outcome.other, outcome.shared, outcome.labels)
    card = describe(data, options, outcome) | extra
    pictures = {
        CURVES: report.curves(outcome.epochs, outcome.best, "loss", {"ap": "AP", "ap50": "AP50"})
        if outcome.own == "names"
        else losses(outcome.epochs),
        PRECISION_RECALL: precision_recall(outcome.measured["box"], outcome.labels),
    }
    report.fill(folder, outcome.tensors, spec, card, page(folder.name, card), pictures)


def describe(data: ObjectSet, options: Options, outcome: Outcome) -> dict[str, Any]:
    """The model card: data, split, options, figures, versions."""
    classes = zip(data.labels, data.count(data.training), data.count(data.validation), data.category_ids, strict=True)
    return {
        "task": outcome.task,
        "backbone": detector.BACKBONE,
        "own": outcome.own,
        "made": report.now(),
        "data": report.of_data(data, *outcome.starts),
        "options": options.model_dump(mode="json"),
        "validation": {kind: found.overall for kind, found in outcome.measured.items()} | {"epoch": outcome.best + 1},
        "classes": [
            {"label": label, "training": seen, "validation": count}
            | {kind: found.classes.get(number) for kind, found in outcome.measured.items()}
            for label, seen, count, number in classes
        ],
        "epochs": [asdict(epoch) for epoch in outcome.epochs],
        "interrupted": outcome.interrupted,
        "features_cached": outcome.cached,
        "parameters": sum(tensor.numel() for tensor in outcome.tensors.values()),
        "seconds": {name: round(value, 2) for name, value in outcome.seconds.items()},
        "versions": report.versions(),
    }


def page(name: str, card: dict[str, Any]) -> str:
    """The card for people, in Markdown."""
    kinds = [kind for kind in ("box", "mask") if kind in card["validation"]]
    model = "segmenter" if card["task"] == "segment" else "detector"
    figures = "; ".join(
        f"{kind} AP **{_shown(card['validation'][kind]['ap'])}**, AP50 {_shown(card['validation'][kind]['ap50'])}, "
        f"AP75 {_shown(card['validation'][kind]['ap75'])}"
        for kind in kinds
    )
    rows = "\n".join(
        f"| {one['label']} | {one['training']} | {one['validation']} | "
        + " | ".join(_shown(one[kind] and one[kind][key]) for kind in kinds for key in ("ap", "ap50"))
        + " |"
        for one in card["classes"]
    )
    heads = " | ".join(f"{kind} {key}" for kind in kinds for key in ("AP", "AP50"))
    stopped = " Training was interrupted: this is what it had until then." if card["interrupted"] else ""
    own, chosen = (
        (
            "names over the shipped network, all of it frozen",
            "The epoch was chosen by these same photos, so expect a little less elsewhere.",
        )
        if card["own"] == "names"
        else ("heads over the frozen backbone", "The last epoch is taken, whatever its figures.")
    )
    return (
        f"# {name}\n\n"
        f"A {model} of {len(card['classes'])} labels, fine-tuned on {card['made'][:10]}: {own}.\n\n"
        f"Validation, by pycocotools: {figures}, at epoch {card['validation']['epoch']} of {len(card['epochs'])}. "
        f"{chosen}{stopped}\n\n"
        f"![Training by epoch]({CURVES})\n![Precision by recall]({PRECISION_RECALL})\n\n"
        f"| label | objects trained on | validated on | {heads} |\n|---|---|---|{'---|' * 2 * len(kinds)}\n"
        f"{rows}\n\n" + report.ending(card)
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def losses(epochs: Sequence[Any]) -> Figure:
    """Each loss by epoch, by torchvision's names."""
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name in epochs[0].losses:
        axes.plot(range(1, len(epochs) + 1), [epoch.losses[name] for epoch in epochs], label=name.removeprefix("loss_"))
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def precision_recall(measured: Measured, labels: tuple[str, ...]) -> Figure:
    """Precision by recall of boxes at IoU 0.5: of each label where they are few, and the mean."""
    figure = Figure(figsize=(5.4, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, 101)
    curves = measured.precision
    if len(curves) <= NAMED_LINES:
        for number, curve in curves.items():
            axes.plot(
                recall, curve, label=f"{labels[number - 1]} ({measured.classes[number]['ap50']:.2f})", linewidth=1.2
            )
    if curves:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(recall, mean, color="black", linewidth=2, label=f"mean ({mean.mean():.2f})")
    axes.set(xlabel="recall", ylabel="precision, boxes at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="AP50")
    return figure
