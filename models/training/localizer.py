"""Makes the localizer's weights and card: `python -m foursight.models.training.localizer --data DATA --out FOLDER`.

The backbone is frozen and seen once per view of a photo (all, mirrored, ten random windows); the head then trains on
the kept features. DATA holds `coco/` and `pennfudan/`, each with `images/` and an `instances.json` in COCO's format.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.evaluation.measure import MEASURED_SHARE
from foursight.models.networks import lite0, rcnn_tiny
from foursight.models.networks.localizer import Localizer, VotingHead, cell_centres, consensus, iou, pool
from foursight.models.training.data import FOLDERS, Photo, read
from foursight.models.training.localizer_views import areas, views

SEED = 0
WINDOWS = 10
EPOCHS = 6
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
DROPOUT = 0.2
# A view whose largest object covers less has no main object to learn from; the measure's own bound is stricter.
SMALLEST_SHARE = 0.04
CAM_THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
# ImageNet's classes of the COCO categories that are the main object of a validation photo; a person has none.
IMAGENET_OF_COCO = {
    "airplane": {404, 895, 908},
    "bed": {520, 564},
    "bench": {703},
    "bicycle": {444, 671},
    "boat": {403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914},
    "bowl": {659, 809},
    "bus": {654, 779, 874},
    "car": {436, 468, 511, 609, 627, 656, 661, 751, 817},
    "cat": {281, 282, 283, 284, 285},
    "couch": {831},
    "dining table": {532},
    "horse": {339},
    "laptop": {620, 681},
    "motorcycle": {665, 670},
    "oven": {766, 827},
    "parking meter": {704},
    "refrigerator": {760},
    "sandwich": {933},
    "sink": {896},
    "stop sign": {919},
    "toilet": {861},
    "truck": {555, 569, 675, 717, 734, 864, 867},
    "tv": {664, 782, 851},
    "zebra": {340},
}


@dataclass(frozen=True)
class Features:
    """V views as the head sees them, float16 maps, with the targets float32 [V, 4] and the photo of each view."""

    middle: Tensor
    semantic: Tensor
    boxes: Tensor
    mains: list[int]
    photos: list[Photo]

    def at(self, rows: Tensor) -> "Features":
        """Some of the views."""
        picked = rows.tolist()
        return Features(
            self.middle[rows],
            self.semantic[rows],
            self.boxes[rows],
            [self.mains[row] for row in picked],
            [self.photos[row] for row in picked],
        )


@torch.inference_mode()
def extract(localizer: Localizer, photos: list[Photo], windows: int, chance: random.Random) -> Features:
    """The features of all views of the photos, photo after photo."""
    device = next(localizer.parameters()).device
    middles, semantics, boxes, mains, owners = [], [], [], [], []
    for photo in photos:
        seen = list(views(photo, windows, chance))
        # Few at once: on two cores a view took 82 ms in a batch of 16, 64 ms alone.
        for start in range(0, len(seen), 4):
            pixels = _pixels([view.image for view in seen[start : start + 4]]).to(device)
            middle, semantic = localizer.features(pixels)
            middles.append(middle.half().contiguous().cpu())
            semantics.append(semantic.half().contiguous().cpu())
        boxes += [view.box for view in seen]
        mains += [view.main for view in seen]
        owners += [photo] * len(seen)
    return Features(torch.cat(middles), torch.cat(semantics), torch.stack(boxes), mains, owners)


def _pixels(images: list[Image.Image]) -> Tensor:
    """Squares as the backbone takes them, in the memory order in which it is fastest on a CPU."""
    pixels = torch.stack([pil_to_tensor(image) for image in images]).float()
    return ((pixels - lite0.MEAN) / lite0.STD).contiguous(memory_format=torch.channels_last)


def fit(head: VotingHead, features: Features, seed: int) -> None:
    """Train the head in place on views with a main object: AdamW, one cycle of the learning rate (Smith 2018)."""
    torch.manual_seed(seed)
    nn.init.zeros_(head.out.weight)
    # At first each cell votes for a box of .6 of the photo around it, and all votes weigh the same.
    nn.init.constant_(cast(Tensor, head.out.bias), -1.2)
    rows = (areas(features.boxes) >= SMALLEST_SHARE).nonzero().flatten()
    steps = EPOCHS * (len(rows) // BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.15)
    head.train()
    for epoch in range(EPOCHS):
        losses = []
        for batch in rows[torch.randperm(len(rows))][: len(rows) // BATCH * BATCH].view(-1, BATCH):
            value = loss(head, features.middle[batch].float(), features.semantic[batch].float(), features.boxes[batch])
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(value.item())
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {sum(losses) / len(losses):.3f}", flush=True)
    head.eval()


def loss(head: VotingHead, middle: Tensor, semantic: Tensor, targets: Tensor) -> Tensor:
    """Where the votes lie, the boxes where they should, and the mean box; boxes by GIoU (Rezatofighi et al. 2019)."""
    middle, semantic = (F.dropout2d(level, DROPOUT, head.training) for level in (middle, semantic))
    votes, boxes = head(middle, semantic)
    wanted = _near_centre(cell_centres(middle).flatten(1), targets)
    placing = -(wanted * votes.log_softmax(1)).sum(1).mean()
    each: Tensor = generalized_box_iou_loss(boxes, targets[:, None].expand_as(boxes))
    mean_box: Tensor = generalized_box_iou_loss((boxes * votes.softmax(1)[..., None]).sum(1), targets)
    total: Tensor = 0.5 * placing + (wanted * each).sum(1).mean() + mean_box.mean()
    return total


def _near_centre(cells: Tensor, boxes: Tensor) -> Tensor:
    """Which of the cells [2, M] should vote for boxes [N, 4]: [N, M], sum 1, a Gaussian of a fifth of the sides."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.05)
    offsets = (cells[None] - centres[..., None]) / (0.2 * sides[..., None])
    return (-offsets.square().sum(1) / 2).softmax(1)


@torch.inference_mode()
def measure(localizer: Localizer, features: Features) -> dict[str, dict[str, float]]:
    """The figures on whole photos whose largest object covers a tenth of them, for each set."""
    votes, boxes = localizer.head(features.middle.float(), features.semantic.float())
    found = consensus(votes, boxes)
    figures = {}
    for folder in FOLDERS:
        ours = [photo.folder == folder for photo in features.photos]
        rows = (torch.tensor(ours) & (areas(features.boxes) >= MEASURED_SHARE)).nonzero().flatten()
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
    """The yardstick: the box round the class activation map (Zhou et al. 2016), at the best of the thresholds."""
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
    """The boxes [N, 4] in 0..1 round the true cells of bool [N, h, w]."""
    ends = []
    for axis in (1, 2):
        filled = hot.any(axis).float()
        size = filled.shape[1]
        ends.append((filled.argmax(1) / size, 1 - filled.flip(1).argmax(1) / size))
    (left, right), (top, bottom) = ends
    return torch.stack((left, top, right, bottom), 1)


def _measure_labels(localizer: Localizer, features: Features, found: Tensor) -> dict[str, float]:
    """How often the label is the main object's, for features pooled over the box found and over the whole photo."""
    label = dict(rcnn_tiny.CATEGORIES)
    mains = [photo.objects[main] for photo, main in zip(features.photos, features.mains, strict=True)]
    names = [label[item["category_id"]] for item in mains]
    rows = torch.tensor([row for row, name in enumerate(names) if name in IMAGENET_OF_COCO])
    figures: dict[str, float] = {"labelled_photos": len(rows)}
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(len(found), 4)
    for key, boxes in (("label_top1", found), ("label_top1_whole_photo", whole)):
        labels = localizer.backbone.classify(pool(features.semantic[rows].float(), boxes[rows])).argmax(1)
        right = [int(label) in IMAGENET_OF_COCO[names[row]] for row, label in zip(rows.tolist(), labels, strict=True)]
        figures[key] = _share(torch.tensor(right))
    return figures


def _share(true: Tensor) -> float:
    return round(float(true.float().mean()), 3)


def main() -> None:
    """Train, measure, and write localizer.safetensors and localizer.json into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with coco/ and pennfudan/")
    parser.add_argument("--out", type=Path, required=True, help="where the weights and their card go")
    arguments = parser.parse_args()
    started = time.monotonic()
    photos = [photo for photo in read(arguments.data) if photo.objects]
    training = [photo for photo in photos if not photo.is_validation]
    validation = [photo for photo in photos if photo.is_validation]
    torch.manual_seed(SEED)
    localizer = Localizer(lite0.load()).eval().to(memory_format=torch.channels_last)
    features = extract(localizer, training, WINDOWS, random.Random(SEED))
    print(f"{len(features.boxes)} views of {len(training)} photos after {time.monotonic() - started:.0f} s", flush=True)
    fit(localizer.head, features, SEED)
    # Measured as shipped: rounded to float16.
    localizer.head.half().float()
    held_back = extract(localizer, validation, 0, random.Random(SEED))
    whole = torch.arange(0, len(held_back.boxes), 2)
    card = {
        "command": "python -m foursight.models.training.localizer --data DATA --out FOLDER",
        "split": "validation: int(sha256(folder/file_name), 16) % 5 == 0",
        "training_photos": len(training),
        "validation_photos": len(validation),
        "measured_on": f"validation photos whose largest box, crowds left out, covers {MEASURED_SHARE} or more",
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
