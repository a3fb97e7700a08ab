"""Measure what bfloat16 and int8 gain and change, compared with float32 in the same process.

    python -m research.precisions --photos photos/ --calibration others/ --tasks classify detect

Answers are compared on the images of a folder. Calls alternate, because a shared machine drifts; ratios are medians.
For the accuracy of detect and segment, run `foursight evaluate --url` against a server with that precision.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torchvision.ops import box_iou

from foursight import models
from foursight.models.engines import devices, environment
from foursight.models.engines.precision import Precision, PrecisionConfig
from foursight.models.errors import PrecisionError
from research.engines import compare

TOP = 5


def main() -> None:
    """Load each task in each precision that this machine supports, and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to answer for")
    parser.add_argument("--calibration", type=Path, required=True, help="folder of other photos, for int8")
    parser.add_argument("--tasks", nargs="+", default=list(models.TASKS), choices=models.TASKS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    environment.require()
    devices.share_cores("cpu")
    photos = [models.decode(path.read_bytes()) for path in sorted(chosen.photos.iterdir())]
    for name in chosen.tasks:
        tasks = loaded(name, chosen.calibration)
        prepared = {
            precision: [(task.prepare(photo), task.resolve(task.options())) for photo in photos]
            for precision, task in tasks.items()
        }
        for batch in chosen.batches:
            ways = {one: partial(task.predict, prepared[one][:batch]) for one, task in tasks.items()}
            compare(f"{name}, batch of {batch}", ways, batch, chosen.rounds)
        if name in ("classify", "localize"):
            answers = {way: [task.predict([one])[0] for one in prepared[way]] for way, task in tasks.items()}
            for precision, found in answers.items():
                print(f"{name:22} {precision:8} {agreement(found, answers['float32'])}", flush=True)


def loaded(name: str, calibration: Path) -> dict[str, Any]:
    """Load a task in each precision that this machine supports."""
    tasks = {}
    for dtype in get_args(Precision):
        precision = PrecisionConfig(dtype, calibration)
        try:
            precision.require()
        except PrecisionError as error:
            print(error)
            continue
        start = time.perf_counter()
        tasks[dtype] = models.load(name, "tiny", "cpu", precision)
        seconds = time.perf_counter() - start
        print(f"{name:22} {dtype:8} computes in {tasks[dtype].card.dtype}, loaded in {seconds:.1f} s", flush=True)
    return tasks


def agreement(found: list[Any], exact: list[Any]) -> str:
    """Return how often the first label is float32's, and how far scores and boxes are off."""
    pairs = [(mine.probabilities, own.probabilities) for mine, own in zip(found, exact, strict=True)]
    same = [mine.argmax() == own.argmax() for mine, own in pairs]
    sure = [one for one, (_, own) in zip(same, pairs, strict=True) if own.max() > 0.5]
    among = [own.argmax() in np.argsort(-mine)[:TOP] for mine, own in pairs]
    shifts = [np.abs(mine - own).max() for mine, own in pairs]
    text = (
        f"first label same {np.mean(same):.3f} of {len(same)}, where above .5 {np.mean(sure):.3f} of {len(sure)}, "
        f"among the best {TOP} {np.mean(among):.3f}; largest shift of a probability {np.mean(shifts):.3f} on the mean"
    )
    if not hasattr(exact[0], "box"):
        return text
    boxes = (torch.from_numpy(np.stack([one.box for one in ones])) for ones in (found, exact))
    overlaps = box_iou(*boxes).diagonal()
    return f"{text}; IoU of boxes {overlaps.mean():.3f} on the mean, {overlaps.quantile(0.05):.3f} at 5 %"


if __name__ == "__main__":
    main()
