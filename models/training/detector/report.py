"""Write the folder of a fine-tuned detector or segmenter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foursight.models.finetuned import detector
from foursight.models.training import plots, report
from foursight.models.training.detection_data import DetectionDataset
from foursight.models.training.detector.finetune import Options, Outcome
from foursight.models.training.report import CHOSEN_BY_VALIDATION, CURVES, Summary, shown

PRECISION_RECALL = "precision-recall.png"


def write(folder: Path, data: DetectionDataset, options: Options, outcome: Outcome, extra: Mapping[str, Any]) -> None:
    """Write the model's folder. `extra` is added to the card: the command, the peak memory."""
    metrics = outcome.metrics
    counts = zip(data.labels, data.count(data.training), data.count(data.validation), data.category_ids, strict=True)
    classes: list[dict[str, Any]] = [
        {"label": label, "training": training, "validation": validation}
        | {kind: found.classes.get(number) for kind, found in metrics.items()}
        for label, training, validation, number in counts
    ]
    validation = {kind: found.overall for kind, found in metrics.items()}
    card = report.make_card(
        outcome.task, detector.BACKBONE, data, options, outcome, validation, classes, extra, outcome.starts
    ) | {
        "own": outcome.own,
        "features_cached": outcome.cached,
        "parameters": sum(tensor.numel() for tensor in outcome.tensors.values()),
    }
    own = "a label head" if outcome.own == "labels" else "a label head and a mask branch"
    summary = Summary(
        f"A {'segmenter' if outcome.task == 'segment' else 'detector'}, {own} over the built-in network",
        "; ".join(
            f"{kind} AP **{shown(found.overall['ap'])}**, AP50 {shown(found.overall['ap50'])}, "
            f"AP75 {shown(found.overall['ap75'])}"
            for kind, found in metrics.items()
        ),
        CHOSEN_BY_VALIDATION,
        ("training objects", "validation objects", *(f"{kind} {key}" for kind in metrics for key in ("AP", "AP50"))),
        [
            [row["label"], str(row["training"]), str(row["validation"])]
            + [shown(row[kind] and row[kind][key]) for kind in metrics for key in ("ap", "ap50")]
            for row in classes
        ],
    )
    pictures = {
        CURVES: plots.curves(outcome.epochs, outcome.best, "loss", {"ap": "AP", "ap50": "AP50"}),
        PRECISION_RECALL: plots.precision_recall(metrics["box"], outcome.labels),
    }
    spec = detector.spec_of(outcome.task, outcome.own, outcome.shared, outcome.labels, data.own_ids)
    report.write(folder, outcome.tensors, spec, card, summary, pictures)
