"""The figures of an evaluation as tables for a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from foursight.schema.tasks import TASKS

_LOCALIZATION = {
    "photos": "images",
    "max_box_acc_50": "MaxBoxAcc .5",
    "mean_iou": "mean IoU",
    "label": "label",
    "label_and_box": "label and box",
}
_DETECTION = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ar100": "AR"}


def make_tables(task: str, model: str, figures: dict[str, Any]) -> list[Table]:
    """Return a table of the overall figures and one of those by label."""
    finds = TASKS[task].finds
    overall, classes, title = figures["overall"], figures["classes"], f"{model} on {figures['photos']} images"
    if finds == "labels":
        return [
            _table(title, ["top-1", "top-5"], [["", overall["top1"], overall["top5"]]]),
            _table(
                "By label",
                ["images", "top-1", "top-5"],
                [[name, row["photos"], row["top1"], row["top5"]] for name, row in classes.items()],
            ),
        ]
    if finds == "object":
        columns = list(_LOCALIZATION.values())
        rows = [[name, *(row[key] for key in _LOCALIZATION)] for name, row in classes.items()]
        return [
            _table(f"{model}, the main object", columns, [["", *(overall[key] for key in _LOCALIZATION)]]),
            _table("By label", columns, rows),
        ]
    return _detection_tables(title, overall, classes, figures["not_a_label_of_the_model"])


def _detection_tables(
    title: str, overall: dict[str, Any], classes: dict[str, Any], unknown: Sequence[str]
) -> list[Table]:
    """Return figures of boxes and, for segmentation, of masks; labels are sorted by the AP of their boxes."""
    kinds = list(overall)
    rows = [
        [
            name + (" *" if name in unknown else ""),
            int(row["box"]["objects"]),
            *(row[kind][key] for kind in kinds for key in _DETECTION),
        ]
        for name, row in sorted(classes.items(), key=lambda one: -one[1]["box"]["ap"])
    ]
    columns = ["objects", *(f"{kind}\n{name}" for kind in kinds for name in _DETECTION.values())]
    return [
        _table(title, kinds, [[name, *(overall[kind][name] for kind in kinds)] for name in overall["box"]]),
        _table("By label" + (" (* is not a label of the model)" if unknown else ""), columns, rows),
    ]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table whose rows begin with a name. A figure that was not measured (None) is a dash."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name, *cells in rows:
        table.add_row(str(name), *("-" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells))
    return table
