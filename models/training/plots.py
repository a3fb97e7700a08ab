"""The plots in a fine-tuned model's folder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from foursight.models.evaluation.measure import CocoMetrics

# More labels overlap on the axes of a confusion matrix.
MOST_AXIS_LABELS = 60
# More lines in a precision-recall plot cannot be told apart.
MOST_LINES = 10


def curves(epochs: Sequence[Any], best: int, loss: str, figures: dict[str, str]) -> Figure:
    """Plot losses and validation figures by epoch, with the best epoch marked; `figures` maps fields to titles."""
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
    """Plot a confusion matrix; row: true class, column: best label. Shades are shares of the row."""
    matrix = counts.numpy()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3 + 0.42 * len(labels), 22)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    shade = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) <= MOST_AXIS_LABELS:
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        for row, column in zip(*matrix.nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(shade, label="share of the true class")
    return figure


def precision_recall(metrics: CocoMetrics, labels: tuple[str, ...]) -> Figure:
    """Plot precision by recall of boxes at IoU 0.5: the mean, and each label unless there are many."""
    figure = Figure(figsize=(5.4, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, 101)
    curves = metrics.precision
    if len(curves) <= MOST_LINES:
        for number, curve in curves.items():
            title = f"{labels[number - 1]} ({metrics.classes[number]['ap50']:.2f})"
            axes.plot(recall, curve, label=title, linewidth=1.2)
    if curves:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(recall, mean, color="black", linewidth=2, label=f"mean ({mean.mean():.2f})")
    axes.set(xlabel="recall", ylabel="precision, boxes at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="AP50")
    return figure
