"""Measure transfer learning on a small data set: pretrained against random weights, and an ablation of options.

python -m research.crops --data coco --out crops
python -m research.transfer --data crops [--rows pretrained "scratch, 112 px" ...] [--work WORK]
python -m research.transfer --data crops --ratio
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from foursight.models.networks import backbone, lite0
from foursight.models.networks.backbone import Backbone
from foursight.models.training import classification_data, features
from foursight.models.training.classifier import Options, Outcome, finetune
from foursight.models.training.loop import Progress


class Row(NamedTuple):
    """Options of a run, whether its weights are pretrained, and the input size in pixels."""

    options: dict[str, object]
    pretrained: bool = True
    crop: int = 224


# All stages are trained; they get a tenth of the learning rate. At half the input size an epoch takes a quarter.
SCRATCH: dict[str, object] = {"freeze": "none", "epochs": 40, "batch": 16, "lr": 1e-2}
ROWS = {
    "pretrained": Row({}),
    "scratch, frozen": Row({}, pretrained=False),
    "pretrained, 112 px": Row({}, crop=112),
    "pretrained, all trained, 112 px": Row(SCRATCH, crop=112),
    "scratch, 112 px": Row(SCRATCH, pretrained=False, crop=112),
    "scratch, augmented, 112 px": Row(SCRATCH | {"augment": True}, pretrained=False, crop=112),
    "pool max": Row({"head": {"pool": "max"}}),
    "pool l2": Row({"head": {"pool": "l2"}}),
    "dropout 0": Row({"head": {"dropout": 0}}),
    "dropout 0.5": Row({"head": {"dropout": 0.5}}),
    "hidden 256": Row({"head": {"hidden": 256}}),
    "freeze stage8": Row({"freeze": "stage8", "epochs": 10}),
    "freeze stage7": Row({"freeze": "stage7", "epochs": 10}),
}


def main() -> None:
    """Print each row as soon as it is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, help="keep checkpoints here, to resume an interrupted row")
    parser.add_argument("--ratio", action="store_true", help="only compare cached features with uncached ones")
    chosen = parser.parse_args()
    data = classification_data.read(chosen.data, 0)
    print(f"{len(data.labels)} classes, {len(data.training)} to train on, {len(data.validation)} to validate on")
    if chosen.ratio:
        ratio(data)
        return
    print("| | top-1 | best epoch | loss | features s | training s |\n|---|---|---|---|---|---|")
    for name in chosen.rows:
        row = ROWS[name]
        for seed in chosen.seeds:
            base = backbone.load("tiny")
            view = replace(base.view, crop=row.crop, resize=base.view.resize * row.crop // base.view.crop)
            base = replace(base, view=view)
            if not row.pretrained:
                base = replace(base, network=_random(base, data, seed))
            options = Options.model_validate(row.options | {"seed": seed})
            work = chosen.work / f"{name} {seed}" if chosen.work else None
            _print_row(name, finetune(data, base, options, torch.device("cpu"), _tell, work))


def _tell(progress: Progress) -> None:
    """Print each epoch's figures on standard error."""
    if progress.phase == "training" and progress.loss is None and progress.epochs:
        epoch = progress.epochs[-1]
        print(f"{len(progress.epochs)}: loss {epoch.loss:.3f}, top-1 {epoch.figure:.3f}", file=sys.stderr, flush=True)


def _print_row(name: str, outcome: Outcome) -> None:
    best = outcome.epochs[outcome.best]
    seconds = outcome.seconds
    print(
        f"| {name} | {best.accuracy:.3f} | {outcome.best + 1} of {len(outcome.epochs)} | {best.validation_loss:.3f} "
        f"| {seconds['features']:.1f} | {seconds['training']:.1f} |",
        flush=True,
    )


def _random(base: Backbone, data: classification_data.Dataset, seed: int) -> nn.Module:
    """Return Lite0 with random weights, and batch statistics of some training images: else its features vanish."""
    torch.manual_seed(seed)
    network = lite0.EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    view = features.center_view(base)
    crops = torch.stack([torch.tensor(view(sample, 0)) for sample in data.training[:: len(data.training) // 32]])
    with torch.no_grad():
        network.train()(base.normalize(crops))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Lite0's own 0.01 suits hundreds of thousands of steps.
            module.momentum = 0.1
    return network.eval()


def ratio(data: classification_data.Dataset, rounds: int = 3, epochs: int = 1) -> None:
    """Print the seconds of an epoch with and without cached features, and of the pass that computes them."""
    base = backbone.load("tiny")
    found: dict[bool, list[float]] = {True: [], False: []}
    with _empty_cache():
        start = time.perf_counter()
        finetune(data, base, Options(epochs=1), torch.device("cpu"))
        print(f"the pass, and one epoch: {time.perf_counter() - start:.1f} s")
        for _ in range(rounds):
            for cache in (True, False):
                outcome = finetune(data, base, Options(epochs=epochs, cache=cache), torch.device("cpu"))
                found[cache].append(outcome.seconds["training"] / epochs)
    ratios = sorted(live / kept for kept, live in zip(found[True], found[False], strict=True))
    for cache, name in ((True, "cached"), (False, "not cached")):
        print(f"an epoch, features {name}: {statistics.median(found[cache]):.3f} s")
    print(f"ratio {statistics.median(ratios):.0f} ({ratios[0]:.0f}..{ratios[-1]:.0f})")


@contextmanager
def _empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield


if __name__ == "__main__":
    main()
