"""Make the built-in localizer's weights and card.

    python -m tools.localizer_weights --data DATA --out FOLDER

The frozen backbone sees each view of an image once (the image, its mirror image, ten random windows); the head is then
trained on the cached features. DATA has `coco/` and `pennfudan/`, each with `images/` and `instances.json`.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.evaluation.measure import MAIN_OBJECT_SHARE
from foursight.models.networks import lite0
from foursight.models.networks.localizer import Localizer, VotingHead, consensus, iou, pool
from foursight.models.training import loop
from foursight.models.training.imagenet import IMAGENET_OF_COCO
from foursight.models.training.localizer import SMALLEST_SHARE, WINDOWS, votes_loss
from foursight.models.training.localizer_features import Features, areas, extract
from tools.training_data import FOLDERS, read

SEED = 0
EPOCHS = 6
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
CAM_THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Epoch:
    """The mean loss of an epoch; validation is measured once, at the end."""

    loss: float
    figure: None = None


class Learner:
    """Trains the head on views with a main object: AdamW and one cycle of the learning rate (Smith 2018)."""

    epoch_type = Epoch

    def __init__(self, head: VotingHead, features: Features, epochs: int) -> None:
        self._head, self._features = head, features
        torch.manual_seed(SEED)
        nn.init.zeros_(head.out.weight)
        # At first each cell votes for a box of .6 of the image around it, and all votes weigh the same.
        nn.init.constant_(cast(Tensor, head.out.bias), -1.2)
        self._rows = (areas(features.boxes) >= SMALLEST_SHARE).nonzero().flatten()
        self.steps = len(self._rows) // BATCH
        self._optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, LEARNING_RATE, epochs * self.steps, pct_start=0.15
        )

    def train(self, epoch: int, epochs: int, on_step: Callable[[int, float], None]) -> Epoch:
        """As in loop.Learner."""
        self._head.train()
        losses = []
        order = self._rows[torch.randperm(len(self._rows))][: self.steps * BATCH]
        for step, rows in enumerate(order.view(-1, BATCH), 1):
            views = self._features.at(rows)
            loss = votes_loss(self._head, views.middle.float(), views.semantic.float(), views.boxes)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._head.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            losses.append(loss.item())
            on_step(step, losses[-1])
        print(f"epoch {epoch + 1}/{epochs}: loss {sum(losses) / len(losses):.3f}", flush=True)
        self._head.eval()
        return Epoch(sum(losses) / len(losses))

    def is_better(self, one: Epoch, other: Epoch) -> bool:
        """The last epoch is taken."""
        return True

    def tensors(self) -> dict[str, Tensor]:
        """As in loop.Learner."""
        return self._head.state_dict()

    def state(self) -> dict[str, Any]:
        """Not supported: no checkpoint is written."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Not supported."""
        raise NotImplementedError


@torch.inference_mode()
def measure(localizer: Localizer, features: Features) -> dict[str, dict[str, float]]:
    """Return the figures of each data set, on whole images whose largest object covers a tenth of them or more."""
    votes, boxes = localizer.head(features.middle.float(), features.semantic.float())
    found = consensus(votes, boxes)
    figures = {}
    for folder in FOLDERS:
        ours = [image.folder == folder for image in features.images]
        rows = (torch.tensor(ours) & (areas(features.boxes) >= MAIN_OBJECT_SHARE)).nonzero().flatten()
        overlaps = iou(found[rows], features.boxes[rows])
        figures[folder] = {
            "photos": len(rows),
            "max_box_acc_50": _share(overlaps >= 0.5),
            "mean_iou": round(float(overlaps.mean()), 3),
        }
        if folder == "coco":
            figures[folder] |= _measure_cam(localizer, features.at(rows)) | _measure_labels(
                localizer, features.at(rows), found[rows]
            )
    return figures


def _measure_cam(localizer: Localizer, features: Features) -> dict[str, float]:
    """Measure the baseline: the box of the class activation map (Zhou et al. 2016), at the best threshold."""
    cells = features.semantic.float().permute(0, 2, 3, 1)
    classify = localizer.backbone.classify
    best = classify(cells.mean((1, 2))).argmax(1)
    activation = classify(cells) - classify(torch.zeros(lite0.NUM_FEATURES))
    heat = activation[torch.arange(len(best)), :, :, best][:, None]
    heat = F.interpolate(heat, scale_factor=8, mode="bicubic")[:, 0].clamp(min=0)
    peak = heat.amax((1, 2), keepdim=True)
    boxes = [_extent(heat >= threshold * peak) for threshold in CAM_THRESHOLDS]
    return {"cam_max_box_acc_50": max(_share(iou(found, features.boxes) >= 0.5) for found in boxes)}


def _extent(hot: Tensor) -> Tensor:
    """Return the boxes [N, 4] in 0..1 around the true cells of bool [N, h, w]."""
    ends = []
    for axis in (1, 2):
        filled = hot.any(axis).float()
        size = filled.shape[1]
        ends.append((filled.argmax(1) / size, 1 - filled.flip(1).argmax(1) / size))
    (left, right), (top, bottom) = ends
    return torch.stack((left, top, right, bottom), 1)


def _measure_labels(localizer: Localizer, features: Features, found: Tensor) -> dict[str, float]:
    """Measure how often the label is the main object's, with features of the predicted box and of the whole image."""
    label = dict(coco.CATEGORIES)
    mains = [image.objects[main] for image, main in zip(features.images, features.mains, strict=True)]
    names = [label[item["category_id"]] for item in mains]
    rows = torch.tensor([row for row, name in enumerate(names) if name in IMAGENET_OF_COCO])
    figures: dict[str, float] = {"labelled_photos": len(rows)}
    if not len(rows):
        return figures
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(found), 4)
    for key, boxes in (("label_top1", found), ("label_top1_whole_photo", whole)):
        labels = localizer.backbone.classify(pool(features.semantic[rows].float(), boxes[rows])).argmax(1)
        right = [int(label) in IMAGENET_OF_COCO[names[row]] for row, label in zip(rows.tolist(), labels, strict=True)]
        figures[key] = _share(torch.tensor(right))
    return figures


def _share(true: Tensor) -> float:
    return round(float(true.float().mean()), 3)


def main() -> None:
    """Train, measure, and write localizer.safetensors and localizer.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--out", type=Path, required=True, help="where to write the weights and their card")
    arguments = parser.parse_args()
    started = time.monotonic()
    images = [image for image in read(arguments.data) if image.objects]
    training = [image for image in images if not image.is_validation]
    validation = [image for image in images if image.is_validation]
    torch.manual_seed(SEED)
    localizer = Localizer(lite0.load()).eval().to(memory_format=torch.channels_last)
    features = extract(localizer, training, WINDOWS, random.Random(SEED))
    print(f"{len(features.boxes)} views of {len(training)} images after {time.monotonic() - started:.0f} s", flush=True)
    loop.run(Learner(localizer.head, features, EPOCHS), EPOCHS, lambda progress: None, None, "")
    # The file has float16, so that is what is measured.
    localizer.head.half().float()
    held_back = extract(localizer, validation, 0, random.Random(SEED))
    whole = torch.arange(0, len(held_back.boxes), 2)
    card = {
        "command": "python -m tools.localizer_weights --data DATA --out FOLDER",
        "split": "validation: int(sha256(folder/file_name), 16) % 5 == 0",
        "training_photos": len(training),
        "validation_photos": len(validation),
        "measured_on": f"validation photos whose largest box, crowds left out, covers {MAIN_OBJECT_SHARE} or more",
        "validation": measure(localizer, held_back.at(whole)),
        "epochs": EPOCHS,
        "windows": WINDOWS,
        "parameters": sum(parameter.numel() for parameter in localizer.head.parameters()),
        "seconds": round(time.monotonic() - started),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in localizer.head.state_dict().items()}
    save_file(state, arguments.out / "localizer.safetensors")
    (arguments.out / "localizer.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card["validation"], indent=2))


if __name__ == "__main__":
    main()
