"""Train the mask branch on cells of objects that are pooled once; seeded.

    python -m research.detector.train_masks --data DATA --sets train fudan-train

Reads projection.safetensors and gates.safetensors in the work folder, and writes masks.safetensors there. Each object
is seen in its own box, in a shifted one and in up to three that the detector finds, since these are the boxes that the
branch will get. `--start` continues from other weights of the branch.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import box_iou, roi_align
from torchvision.transforms.functional import to_tensor

from foursight.models.datasets.outlines import as_rle
from foursight.models.networks.ssd_rcnn import graph, network
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.masks import CELLS, MaskHead, MaskPool, MaskPredictor
from research.detector import data
from research.detector.workspace import parser

# Shares of a step's objects; a set is drawn from as often as its outlines are worth.
SHARES = {"train": 1.0, "fudan-train": 0.2, "people": 0.35}
# Shares of an object's views: its own box, the shifted one, those of the detector.
VIEWS = (0.25, 0.25, 0.5)
# The standard deviation of the shift in parts of a side; the least IoU of the detector's boxes, and their least score.
SHIFT, IOU, SCORE = 0.06, 0.5, 0.02
FOUND = 3
# Sides of objects that are large enough to learn from, in pixels.
LEAST_SIDE = 4


@dataclass(frozen=True)
class Views:
    """V views of objects: `cells` float16 [V, 152, 14, 14], `edges` float16 [V, 24, 28, 28], `masks` uint8 [V, 28, 28].

    Masks are in 0..255. `chance` float32 [V] is how often a view is drawn.
    """

    cells: Tensor
    edges: Tensor
    masks: Tensor
    chance: Tensor


@torch.no_grad()
def views_of(detector: GeneralizedRCNN, photo: data.Photo, noise: torch.Generator) -> Views | None:
    """The views of an image's objects; None if it has no outlines."""
    own = [item for item in photo.objects if item.get("segmentation") and not item["iscrowd"]]
    own = [item for item in own if min(item["bbox"][2:]) >= LEAST_SIDE]
    if not own:
        return None
    images, _ = detector.transform([to_tensor(photo.image())])
    features = detector.backbone(images.tensors)
    rows, _ = detector.rpn(images, features)
    heads = detector.roi_heads
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, rows, images.image_sizes)))
    (found,), _, _ = heads.postprocess_detections(logits, deltas, rows, images.image_sizes)
    height, width = photo.size
    corners = torch.tensor([item["bbox"] for item in own], dtype=torch.float32)
    scale = torch.tensor([FINE_SIDE / width, FINE_SIDE / height] * 2)
    truth = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1) * scale
    shifted = truth + torch.randn(truth.shape, generator=noise) * SHIFT * (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
    boxes, objects, chance = [], [], []
    overlaps, nearest = box_iou(found, truth).max(1) if len(found) else (torch.zeros(0), torch.zeros(0))
    for index in range(len(own)):
        # The detector's boxes are in the order of their scores.
        near = found[(overlaps >= IOU) & (nearest == index)][:FOUND]
        boxes.append(torch.cat([truth[index, None], shifted[index, None].clamp(0, FINE_SIDE), near]))
        objects += [index] * len(boxes[-1])
        chances = torch.tensor([*VIEWS[:2], *[VIEWS[2] / len(near)] * len(near)])
        chance.append(chances / chances.sum())
    every = torch.cat(boxes)
    cells, edges = heads.mask_roi_pool(features, [every], images.image_sizes)
    outlines = torch.from_numpy(np.stack([rle.decode(as_rle(item["segmentation"], height, width)) for item in own]))
    rois = torch.cat([torch.tensor(objects)[:, None].float(), every / scale], 1)
    masks = roi_align(outlines[:, None].float(), rois, 2 * CELLS, 1.0, 2, True)[:, 0]
    return Views(cells.half(), edges.half(), (masks * 255).round().to(torch.uint8), torch.cat(chance))


def collect(chosen: argparse.Namespace, name: str, noise: torch.Generator) -> Views:
    """The views of a set, pooled once and kept in the work folder."""
    path = chosen.work / f"views-{name}.pt"
    if not path.exists():
        detector, start = compose(chosen.work), time.time()
        seen = [views for photo in data.read(chosen.data, name) if (views := views_of(detector, photo, noise))]
        torch.save([torch.cat(part) for part in zip(*(vars(views).values() for views in seen), strict=True)], path)
        print(name, len(seen), "images", f"{time.time() - start:.0f} s", flush=True)
    return Views(*torch.load(path))


def compose(work: Path) -> GeneralizedRCNN:
    """The detector without a mask branch, with a pool for masks."""
    detector = network.compose(*graph.load(), masks=False)
    state = {
        f"backbone.{part}.{key}": value
        for part in ("projection", "gates")
        for key, value in load_file(work / f"{part}.safetensors").items()
    }
    network.restore(detector, state)
    detector.roi_heads.score_thresh = SCORE
    detector.roi_heads.mask_roi_pool = MaskPool()
    return detector


class MaskBranch(nn.Module):
    """The modules that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_head, self.mask_predictor = MaskHead(), MaskPredictor()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, cells: Tensor, edges: Tensor) -> Tensor:
        """Map cells [M, 152, 14, 14] and edges [M, 24, 28, 28] to logits [M, 28, 28]."""
        found: Tensor = self.mask_predictor(self.mask_head((cells, edges)))[:, 0]
        return found


def draw(sets: list[tuple[float, Views]], batch: int, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, edges and masks (0..1) of a step; half of them are mirrored."""
    counts = torch.multinomial(torch.tensor([share for share, _ in sets]), batch, True, generator=noise)
    parts = []
    for index, (_, views) in enumerate(sets):
        rows = torch.multinomial(views.chance, int((counts == index).sum()) or 1, True, generator=noise)
        parts.append((views.cells[rows], views.edges[rows], views.masks[rows]))
    cells, edges, masks = (torch.cat(part).float() for part in zip(*parts, strict=True))
    # Mirrored cells differ from the cells of a mirrored image, but they train the branch as well.
    half = torch.rand(len(masks), generator=noise) < 0.5
    for part in (cells, edges, masks):
        part[half] = part[half].flip(-1)
    channels_last = torch.channels_last
    return cells.contiguous(memory_format=channels_last), edges.contiguous(memory_format=channels_last), masks / 255


def train(sets: list[tuple[float, Views]], noise: torch.Generator, chosen: argparse.Namespace) -> dict[str, Tensor]:
    """Train for `steps` or `minutes`, whichever is less; return the mean of the weights over the last steps."""
    branch = MaskBranch().to(memory_format=torch.channels_last)
    if chosen.start:
        branch.load_state_dict(load_file(chosen.start))
    mean = {key: value.clone() for key, value in branch.state_dict().items()}
    optimizer = torch.optim.AdamW(branch.parameters(), chosen.rate, weight_decay=0.02)
    start, losses = time.time(), list[float]()
    for done in range(chosen.steps):
        part = max(done / chosen.steps, (time.time() - start) / (60 * chosen.minutes))
        if part >= 1:
            break
        optimizer.param_groups[0]["lr"] = chosen.rate * min(1, (done + 1) / 40) * (1 + math.cos(math.pi * part)) / 2
        cells, edges, masks = draw(sets, chosen.batch, noise)
        loss = F.binary_cross_entropy_with_logits(branch(cells, edges), masks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(branch.parameters(), 1.0)
        optimizer.step()
        keep = min(0.99, (done + 1) / (done + 11))
        for key, value in branch.state_dict().items():
            mean[key].lerp_(value, 1 - keep)
        losses.append(float(loss.detach()))
        if done % 20 == 19:
            print(f"{done + 1} loss {sum(losses[-20:]) / 20:.4f} {time.time() - start:.0f} s", flush=True)
    return {key: value.contiguous() for key, value in mean.items()}


def main() -> None:
    """Pool once, train, save."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=SHARES, default=list(SHARES))
    options.add_argument("--steps", type=int, default=700)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--minutes", type=float, default=60, help="the schedule is cut to this time")
    options.add_argument("--rate", type=float, default=2e-3)
    options.add_argument("--start", type=Path, help="weights to continue from")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(13)
    noise = torch.Generator().manual_seed(13)
    sets = [(SHARES[name], collect(chosen, name, noise)) for name in chosen.sets]
    save_file(train(sets, noise, chosen), chosen.work / "masks.safetensors")


if __name__ == "__main__":
    main()
