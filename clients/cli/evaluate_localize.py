"""`foursight evaluate --task localize`: whether the one box of each photo is its main object's.

The figure is MaxBoxAcc at an IoU of 0.5 (Choe et al. 2020, "Evaluating Weakly Supervised Object Localization Methods
Right"): the share of photos whose box hits. There it is the maximum over the thresholds of a heat map; a box that is
given as such has none.
"""

from pathlib import Path
from typing import Any

from foursight.clients.cli.evaluation import (
    Asker,
    Bad,
    EvaluateError,
    Report,
    ask_photos,
    categories_of,
    folder_of,
    make_table,
    plain,
    read_coco,
    true_objects,
)
from foursight.schema import Prediction


def report(
    file: Path, images: Path | None, asker: Asker, asked: list[str] | None, limit: int | None, worst: int
) -> Report:
    """Measure the photos of a COCO file whose largest object is large enough, and of a category that was asked for."""
    from foursight.models.evaluation.measure import Located, iou, localization, main_object  # noqa: PLC0415

    listing = read_coco(file)
    folder = folder_of(file, images)
    labels, chosen = categories_of(listing, asked)
    objects: dict[int, list[dict[str, Any]]] = {}
    for item in listing["annotations"]:
        objects.setdefault(item["image_id"], []).append(item)
    photos = listing["images"][:limit]
    mains = {}
    for photo in photos:
        size = _size(photo, file)
        main = main_object(objects.get(photo["id"], []), size)
        if main and main["category_id"] in chosen:
            mains[photo["id"]] = main
    measured = [photo for photo in photos if photo["id"] in mains]
    if not measured:
        raise EvaluateError(f"{file} has no photo with a main object: one that covers a tenth of its photo or more.")
    answers, failed = ask_photos(asker, folder, measured)
    known = {plain(label) for label in asker.labels}
    rows: list[Located] = []
    bad: list[tuple[float, Bad]] = []
    for photo in (photo for photo in measured if photo["id"] in answers):
        main, found = mains[photo["id"]], answers[photo["id"]].predictions
        name = labels[main["category_id"]]
        overlap = max((iou(one.box, _corners(main["bbox"])) for one in found[:1] if one.box), default=0.0)
        right = bool(found) and plain(found[0].label) == plain(name) if plain(name) in known else None
        row = Located(name, overlap, right)
        rows.append(row)
        if not row.is_right:
            bad.append((_badness(row), _bad(folder / photo["file_name"], row, found, main, labels)))
    overall, classes = localization(rows)
    worst_first = [one for _, one in sorted(bad, key=lambda pair: pair[0])][:worst]
    content = {
        "photos": len(rows),
        "without_a_main_object": len(photos) - len(measured),
        "overall": overall,
        "classes": classes,
        "not_a_label_of_the_model": sorted(name for name in classes if plain(name) not in known),
        "worst": [{"file": str(one.path), "what": one.caption} for one in worst_first],
        "failed": failed,
    }
    columns = ["photos", "MaxBoxAcc .5", "mean IoU", "label", "label and box"]
    keys = ("photos", "max_box_acc_50", "mean_iou", "label", "label_and_box")
    lines = [[name, *(figures[key] for key in keys)] for name, figures in classes.items()]
    tables = [
        make_table(f"{asker.model}, the main object", columns, [["", *(overall[key] for key in keys)]]),
        make_table("By label", columns, lines),
    ]
    return Report(content, tables, worst_first)


def _size(photo: dict[str, Any], file: Path) -> tuple[int, int]:
    try:
        return int(photo["width"]), int(photo["height"])
    except (KeyError, TypeError, ValueError):
        raise EvaluateError(f"{file} does not say the width and height of {photo.get('file_name')}.") from None


def _corners(bbox: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _badness(row: Any) -> float:
    """What is to be seen first: boxes that miss, from the least overlap on; then labels that are wrong."""
    overlap: float = row.overlap
    return overlap if not row.hits else 1 + overlap


def _bad(path: Path, row: Any, found: list[Prediction], main: dict[str, Any], labels: dict[int, str]) -> Bad:
    said = found[0].label if found else "nothing"
    label = f", said {said}" if row.label is False else ""
    return Bad(path, f"{path.name}: {row.name}, IoU {row.overlap:.2f}{label}", found[:1], true_objects([main], labels))
