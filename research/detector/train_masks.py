"""Train the mask branch on cells of objects that are pooled once; seeded.

    python -m research.detector.train_masks --data DATA

Reads the maps of the sets (research.detector.cache_maps) and projection.safetensors in the work folder, and writes
masks.safetensors there. Each object is seen in its own box and in a shifted one, since predicted boxes are not exact;
at most eight objects of an image.
"""

import argparse
import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as rle
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from foursight.models.networks.ssd_rcnn.backbone import PROJECTED, Projection
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.masks import CELLS, MaskHead, MaskPredictor, mask_pool
from foursight.models.training.detection_data import as_rle
from research.detector import data
from research.detector.workspace import parser

# Objects of an image at most, and the standard deviation of the shift in parts of a side.
OBJECTS = 8
SHIFT = 0.06
BATCH = 64


def pooled(
    chosen: argparse.Namespace, name: str, projection: Projection, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The objects of a set: cells float16 [M, 152, 14, 14] and masks uint8 [M, 28, 28] in 0..255."""
    pool, cells, targets = mask_pool(), [], []
    for row, photo in zip(torch.load(chosen.work / f"maps-{name}.pt"), data.read(chosen.data, name), strict=True):
        own = [item for item in photo.objects if item.get("segmentation") and not item["iscrowd"]]
        own = [item for item in own if min(item["bbox"][2:]) >= 4]
        own = [own[place] for place in torch.randperm(len(own), generator=noise).tolist()[:OBJECTS]]
        if not own:
            continue
        height, width = photo.size
        corners = torch.tensor([item["bbox"] for item in own])
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
        limits = torch.tensor([width, height] * 2)
        shifted = boxes + torch.randn(boxes.shape, generator=noise) * SHIFT * corners[:, 2:].repeat(1, 2)
        both = torch.cat([boxes, torch.min(shifted.clamp(min=0), limits)])
        maps = projection({key: row[key][None].float() for key in PROJECTED})
        scaled = both * torch.tensor([FINE_SIDE / width, FINE_SIDE / height] * 2)
        cells.append(pool(maps, [scaled], []).half())
        masks = [rle.decode(as_rle(item["segmentation"], height, width)) for item in own]
        targets.append(torch.cat([_cut(mask, box) for mask, box in zip(masks * 2, both, strict=True)]))
    return torch.cat(cells), torch.cat(targets)


def _cut(mask: NDArray[np.uint8], box: Tensor) -> Tensor:
    """A mask [H, W] within a box, uint8 [1, 28, 28] in 0..255."""
    rois = torch.cat([torch.zeros(1), box])[None]
    found = roi_align(torch.from_numpy(mask)[None, None].float(), rois, 2 * CELLS, 1.0, 2, True)[:, 0]
    cut: Tensor = (found * 255).round().to(torch.uint8)
    return cut


class MaskBranch(nn.Module):
    """The modules that are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_head, self.mask_predictor = MaskHead(), MaskPredictor()

    def forward(self, cells: Tensor) -> Tensor:
        """Map cells [M, 152, 14, 14] to logits [M, 28, 28]."""
        found: Tensor = self.mask_predictor(self.mask_head(cells))[:, 0]
        return found


def train(cells: Tensor, targets: Tensor, noise: torch.Generator, chosen: argparse.Namespace) -> dict[str, Tensor]:
    """Train for `epochs` or `minutes`, whichever is less; return the mean of the weights over the last steps."""
    branch = MaskBranch().to(memory_format=torch.channels_last)
    mean = {key: value.clone() for key, value in branch.state_dict().items()}
    optimizer = torch.optim.AdamW(branch.parameters(), chosen.rate, weight_decay=0.02)
    start, done, losses = time.time(), 0, list[float]()
    steps = chosen.epochs * (len(cells) // BATCH)
    while done < steps:
        part = max(done / steps, (time.time() - start) / (60 * chosen.minutes))
        if part >= 1:
            break
        optimizer.param_groups[0]["lr"] = chosen.rate * min(1, (done + 1) / 20) * (1 + math.cos(math.pi * part)) / 2
        rows = torch.randint(len(cells), (BATCH,), generator=noise)
        seen, wanted = cells[rows].float(), targets[rows].float() / 255
        # Mirrored cells differ from the cells of a mirrored image, but they train the heads as well.
        if done % 2:
            seen, wanted = seen.flip(3), wanted.flip(2)
        loss = F.binary_cross_entropy_with_logits(branch(seen.contiguous(memory_format=torch.channels_last)), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done += 1
        keep = min(0.98, done / (done + 10))
        for key, value in branch.state_dict().items():
            mean[key].lerp_(value, 1 - keep)
        losses.append(float(loss.detach()))
        if done % 20 == 0:
            print(f"{done}/{steps} loss {sum(losses[-20:]) / 20:.4f} {time.time() - start:.0f} s", flush=True)
    return {key: value.contiguous() for key, value in mean.items()}


def main() -> None:
    """Pool once, train, save."""
    options = parser(__doc__)
    options.add_argument("--sets", nargs="+", choices=data.SETS, default=["train", "fudan-train"])
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--minutes", type=float, default=10, help="the schedule is cut to this time")
    options.add_argument("--rate", type=float, default=2e-3)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(13)
    noise = torch.Generator().manual_seed(13)
    projection = Projection()
    projection.load_state_dict(load_file(chosen.work / "projection.safetensors"))
    tables = []
    for name in chosen.sets:
        path = chosen.work / f"masks-{name}.pt"
        if not path.exists():
            with torch.no_grad():
                torch.save(pooled(chosen, name, projection, noise), path)
        tables.append(torch.load(path))
        print(name, len(tables[-1][0]), "views", flush=True)
    cells, targets = (torch.cat(both) for both in zip(*tables, strict=True))
    save_file(train(cells, targets, noise, chosen), chosen.work / "masks.safetensors")


if __name__ == "__main__":
    main()
