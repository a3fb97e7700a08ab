"""Calibrate scores and choose thresholds on `choose`, and report on `report`.

    python -m research.detector.thresholds --data DATA

Reads the predictions of research.detector.measure. A detection is right if COCO's matching at IoU .5 says so.
Calibration is one logistic curve over the logit of the score, for all classes. The threshold of a class is the lowest
score from .1 at which its precision on `choose`, shrunk towards that of all classes by 8 detections, is at least .6
there and at every higher score with 8 or more detections. A class with fewer than 8 detections has the threshold of all
classes.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from foursight.models import coco
from research.detector import data
from research.detector.evaluate import Evaluation, Found
from research.detector.workspace import WEIGHTS, parser

PRECISION, SHRINK = 0.6, 8
# The default of the option min_score.
SERVED = 0.5
GRID = np.round(np.arange(0.1, 0.91, 0.02), 2)

Curve = tuple[float, float]
Pooled = tuple[NDArray[np.float64], NDArray[np.bool_]]
UNCHANGED: Curve = (1.0, 0.0)
Rows = dict[int, tuple[NDArray[np.float64], NDArray[np.bool_], int]]


def evaluate(folder: Path, work: Path, name: str) -> Evaluation:
    """The matches of the predictions for a set."""
    found: list[Found] = torch.load(work / f"found-{name}.pt", weights_only=False)
    return Evaluation(data.read(folder, name), found)


def rows_of(run: Evaluation) -> Rows:
    """For each class: scores, whether each is right, and the number of objects."""
    rows: Rows = {}
    for place, number in enumerate(run.ids):
        cells = [cell for cell in run.cells[place, 0] if cell is not None]
        scores = np.concatenate([cell["dtScores"] for cell in cells] or [np.zeros(0)]).astype(float)
        right = np.concatenate([cell["dtMatches"][0] > 0 for cell in cells] or [np.zeros(0, bool)]).astype(bool)
        ignored = np.concatenate([cell["dtIgnore"][0] for cell in cells] or [np.zeros(0, bool)]).astype(bool)
        there = sum(int((np.asarray(cell["gtIgnore"]) == 0).sum()) for cell in cells)
        rows[number] = (scores[~ignored], right[~ignored], there)
    return rows


def pooled(rows: Rows) -> Pooled:
    """Scores of all classes, and whether each is right."""
    return np.concatenate([r[0] for r in rows.values()]), np.concatenate([r[1] for r in rows.values()])


def logistic(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Curve:
    """Slope and offset of the curve from the logit of a score to the share that is right, by Newton's method."""
    x = np.stack([_logit(scores), np.ones(len(scores))], 1)
    beta = np.array([1.0, 0.0])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ beta))
        hessian = (x * (p * (1 - p))[:, None]).T @ x
        beta += np.linalg.solve(hessian, x.T @ (right - p))
    return float(beta[0]), float(beta[1])


def calibrated(scores: NDArray[np.float64], curve: Curve) -> NDArray[np.float64]:
    """Map scores through the curve."""
    return 1 / (1 + np.exp(-(curve[0] * _logit(scores) + curve[1])))


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(scores, 1e-4, 1 - 1e-4)
    found: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return found


def ece(scores: NDArray[np.float64], right: NDArray[np.bool_], above: float = 0.0) -> float:
    """Expected calibration error over ten bins of equal width, for scores from `above`."""
    scores, right = scores[scores >= above], right[scores >= above]
    places = np.minimum((scores * 10).astype(int), 9)
    total = 0.0
    for place in range(10):
        mine = places == place
        if mine.any():
            total += mine.sum() * abs(scores[mine].mean() - right[mine].mean())
    return total / max(len(scores), 1)


def threshold(scores: NDArray[np.float64], right: NDArray[np.bool_], whole: Pooled) -> float:
    """The threshold of a class by the rule, for calibrated scores; `whole` are those of all classes."""
    chosen = GRID[-1]
    for value in GRID[::-1]:
        above, all_above = scores >= value, whole[0] >= value
        if all_above.sum() < 20:
            continue
        general = whole[1][all_above].mean()
        precision = (right[above].sum() + SHRINK * general) / (above.sum() + SHRINK)
        if precision < PRECISION and above.sum() >= (SHRINK if scores is not whole[0] else 1):
            break
        chosen = value
    return float(chosen)


def table(rows: Rows, curve: Curve) -> tuple[float, dict[str, float]]:
    """The threshold of all classes, and that of each class."""
    whole = calibrated(pooled(rows)[0], curve), pooled(rows)[1]
    default, found = threshold(*whole, whole), {}
    for number, name in coco.CATEGORIES:
        scores, right, _ = rows[number]
        after = calibrated(scores, curve)
        enough = (after >= GRID[0]).sum() >= SHRINK
        found[name] = threshold(after, right, whole) if enough else default
    return default, found


def report(rows: Rows, curve: Curve, thresholds: dict[str, float]) -> str:
    """Precision and recall at the thresholds, and the classes with a precision below .4."""
    right_count = wrong_count = there = 0
    low = []
    for number, name in coco.CATEGORIES:
        scores, right, count = rows[number]
        kept = right[calibrated(scores, curve) >= thresholds[name]]
        right_count, wrong_count, there = right_count + kept.sum(), wrong_count + (~kept).sum(), there + count
        if len(kept) >= 5 and kept.mean() < 0.4:
            low.append(f"{name} {kept.sum()}/{len(kept)}")
    precision = right_count / max(right_count + wrong_count, 1)
    return f"precision {precision:.3f} recall {right_count / there:.3f}  below .4: {', '.join(low)}"


def as_served(run: Evaluation) -> str:
    """Precision and recall at SERVED of the network's own scores, with 95 % intervals over resampled images."""
    right, kept, there = np.zeros((3, run.cells.shape[2]))
    for row in run.cells[:, 0]:
        for image, cell in enumerate(row):
            if cell is not None:
                counted = (np.asarray(cell["dtScores"]) >= SERVED) & ~np.asarray(cell["dtIgnore"][0], bool)
                right[image] += (counted & (np.asarray(cell["dtMatches"][0]) > 0)).sum()
                kept[image] += counted.sum()
                there[image] += (np.asarray(cell["gtIgnore"]) == 0).sum()
    drawn = np.random.default_rng(13).integers(len(right), size=(1000, len(right)))
    texts = []
    for name, of in (("precision", kept), ("recall", there)):
        low, high = np.percentile(right[drawn].sum(1) / of[drawn].sum(1), [2.5, 97.5])
        texts.append(f"{name} {right.sum() / of.sum():.3f} ({low:.3f}..{high:.3f})")
    return ", ".join(texts)


def main() -> None:
    """Print calibration errors, and precision and recall at the thresholds; write the thresholds."""
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=WEIGHTS / "thresholds.json")
    chosen = options.parse_args()
    runs = {name: evaluate(chosen.data, chosen.work, name) for name in ("choose", "report")}
    halves = {name: rows_of(run) for name, run in runs.items()}
    curve = logistic(*pooled(halves["choose"]))
    for split, rows in halves.items():
        scores, right = pooled(rows)
        after = calibrated(scores, curve)
        whole, above = f"{ece(scores, right):.3f} -> {ece(after, right):.3f}", ece(scores, right, 0.3)
        print(f"{split}: ECE {whole}; of scores above .3 {above:.3f} -> {ece(after, right, 0.3):.3f}")
    default, thresholds = table(halves["choose"], curve)
    print(f"curve {curve}, threshold of all classes {default:.2f}")
    served = dict.fromkeys(thresholds, SERVED)
    tables = {
        "one threshold": (curve, dict.fromkeys(thresholds, default)),
        "one for each class": (curve, thresholds),
        f"{SERVED} for all": (curve, served),
        "as served": (UNCHANGED, served),
    }
    for name, table_ in tables.items():
        for split, rows in halves.items():
            print(f"{name:18} {split:7} {report(rows, *table_)}")
    for split, run in runs.items():
        print(f"as served: {split}: {as_served(run)}")
    row = {"curve": curve, "default": default, "thresholds": thresholds}
    chosen.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
