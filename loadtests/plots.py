"""Plots of docs/measurements/performance.md."""

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def plot(draw: Callable[[Axes], None], path: Path, size: tuple[float, float]) -> None:
    """Write a plot; `draw` fills its axes."""
    # Text is kept as text and no date is written, so the same results produce the same small file.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foursight", "font.size": 9}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
