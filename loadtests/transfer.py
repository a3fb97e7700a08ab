"""What transfer is worth on a small set: a fine-tuned head against the same from scratch, and an ablation of its parts.

python loadtests/crops.py --data coco --out crops
python loadtests/transfer.py --data crops [--rows pretrained "scratch, all trained" ...]
python loadtests/transfer.py --data crops --ratio
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from foursight.models import backbone, lite0
from foursight.models.backbone import Backbone
from foursight.models.training import dataset, features
from foursight.models.training.finetune import Options, Outcome, finetune

# name: (options, whether the backbone is pretrained).
ROWS: dict[str, tuple[dict[str, object], bool]] = {
    "pretrained": ({}, True),
    "scratch, frozen": ({}, False),
    "pool max": ({"head": {"pool": "max"}}, True),
    "pool l2": ({"head": {"pool": "l2"}}, True),
    "dropout 0": ({"head": {"dropout": 0}}, True),
    "dropout 0.5": ({"head": {"dropout": 0.5}}, True),
    "hidden 256": ({"head": {"hidden": 256}}, True),
    "freeze stage8": ({"freeze": "stage8", "epochs": 10}, True),
    "freeze stage7": ({"freeze": "stage7", "epochs": 10}, True),
    # Trained stages take a tenth of the rate: here it is theirs that matters.
    "scratch, all trained": ({"freeze": "none", "lr": 1e-2}, False),
    "scratch, augmented": ({"freeze": "none", "lr": 1e-2, "augment": True}, False),
}


def main() -> None:
    """Print a row as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, help="keep checkpoints here: a row that was broken off is gone on with")
    parser.add_argument("--ratio", action="store_true", help="measure features kept against not kept, and no more")
    chosen = parser.parse_args()
    data = dataset.read(chosen.data, 0)
    print(f"{len(data.labels)} classes, {len(data.training)} to train on, {len(data.validation)} to validate on")
    if chosen.ratio:
        ratio(data)
        return
    print("| | top-1 | best epoch | loss | features s | training s |\n|---|---|---|---|---|---|")
    for name in chosen.rows:
        values, pretrained = ROWS[name]
        for seed in chosen.seeds:
            base = backbone.load("tiny")
            if not pretrained:
                base = replace(base, network=_random(base, data, seed))
            options = Options.model_validate(values | {"seed": seed})
            work = chosen.work / f"{name} {seed}" if chosen.work else None
            _print_row(name, finetune(data, base, options, torch.device("cpu"), work=work))


def _print_row(name: str, outcome: Outcome) -> None:
    best = outcome.epochs[outcome.best]
    seconds = outcome.seconds
    print(
        f"| {name} | {best.accuracy:.3f} | {outcome.best + 1} of {len(outcome.epochs)} | {best.validation_loss:.3f} "
        f"| {seconds['features']:.1f} | {seconds['training']:.1f} |",
        flush=True,
    )


def _random(base: Backbone, data: dataset.Dataset, seed: int) -> nn.Module:
    """Lite0 with random weights, and the batch statistics of some training photos: else its features vanish."""
    torch.manual_seed(seed)
    network = lite0.EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    view = features.centre(base)
    crops = torch.stack([torch.tensor(view(sample, 0)) for sample in data.training[:: len(data.training) // 32]])
    with torch.no_grad():
        network.train()(base.normalize(crops))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Lite0's own .01 is for hundreds of thousands of steps.
            module.momentum = 0.1
    return network.eval()


def ratio(data: dataset.Dataset, rounds: int = 3, epochs: int = 1) -> None:
    """Seconds of an epoch with features kept and not kept, in turns; and of the one pass that it takes."""
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
    for cache, name in ((True, "kept"), (False, "not kept")):
        print(f"an epoch, features {name}: {statistics.median(found[cache]):.3f} s")
    print(f"ratio {statistics.median(ratios):.0f} ({ratios[0]:.0f}..{ratios[-1]:.0f})")


@contextmanager
def _empty_cache() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield


if __name__ == "__main__":
    main()
