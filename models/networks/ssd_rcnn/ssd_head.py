"""SSD's heads, anchors and box coder (Liu et al. 2016), as `ssd_mobilenet_v2_coco_2018_03_29` has them.

For a 300 x 300 image there are 1,917 anchors, each with four box offsets and 91 logits (background, then the 90 ids
with which COCO numbers its 80 categories); a score is the sigmoid of a logit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foursight.models.networks.ssd_rcnn.mobilenet import HEAD_LEVELS

# Ids 1..90 of COCO are the classes; 0 is background, which sigmoid scores do not need.
CLASSES = 91
# The pipeline's `faster_rcnn_box_coder`: offsets of centres are times 10, of log sides times 5.
CENTRE_SCALE, SIDE_SCALE = 10.0, 5.0
# The pipeline's `ssd_anchor_generator`: scales from .2 to .95 of the image's side; the first map has its own three.
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
RATIOS = (1.0, 2.0, 0.5, 3.0, 0.3333)
FIRST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))
SIDE = 300


class SsdHead(nn.Module):
    """For each map a convolution to box offsets and one to class logits."""

    def __init__(self) -> None:
        super().__init__()
        counts = [len(shapes(level)) for level in range(len(HEAD_LEVELS))]
        channels = [channels for channels, _ in HEAD_LEVELS.values()]
        self.boxes = nn.ModuleList(nn.Conv2d(c, n * 4, 3, padding=1) for c, n in zip(channels, counts, strict=True))
        self.classes = nn.ModuleList(
            nn.Conv2d(c, n * CLASSES, 3, padding=1) for c, n in zip(channels, counts, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map the six maps, or only the first, to offsets [N, A, 4] (y, x, log h, log w) and logits [N, A, 91]."""
        offsets = [rows(conv(level), 4) for conv, level in zip(self.boxes, maps, strict=False)]
        logits = [rows(conv(level), CLASSES) for conv, level in zip(self.classes, maps, strict=False)]
        return torch.cat(offsets, 1), torch.cat(logits, 1)


def rows(level: Tensor, width: int) -> Tensor:
    """A head's map, float [N, A * width, h, w], as a row for each anchor, in order of (y, x, shape)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, width)


def shapes(level: int) -> list[tuple[float, float]]:
    """A map's anchors as (scale, aspect ratio), in the graph's order."""
    if level == 0:
        return list(FIRST)
    own = [(SCALES[level], ratio) for ratio in RATIOS]
    return [*own, (math.sqrt(SCALES[level] * SCALES[level + 1]), 1.0)]


def anchors(height: int, width: int, relative: bool = True, levels: int = len(HEAD_LEVELS)) -> Tensor:
    """All anchors of an input of `height` x `width` pixels: float32 [A, 4] (cx, cy, w, h) in 0..1.

    At 300 x 300 they are those of the graph. At other sizes their sides are the same share of the image with
    `relative`, else the same number of pixels.
    """
    found = []
    side = (1.0, 1.0) if relative else (SIDE / width, SIDE / height)
    for level in range(levels):
        scale = torch.tensor(shapes(level))
        root = scale[:, 1].sqrt()
        sizes = torch.stack([scale[:, 0] * root * side[0], scale[:, 0] / root * side[1]], 1)
        y, x = centres(height, level), centres(width, level)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
        both = torch.cat(
            [grid[:, :, None].expand(-1, -1, len(sizes), -1), sizes[None, None].expand(*grid.shape[:2], -1, -1)], -1
        )
        found.append(both.reshape(-1, 4))
    return torch.cat(found)


def centres(size: int, level: int) -> Tensor:
    """Centres of a map's anchors along a side of `size` pixels, float32 [cells] in 0..1.

    At 300 pixels, cell i of n is centred at (i + .5) / n. The receptive field of the cell is centred at stride * i +
    first instead, where `first` depends on which of the sides on the way are odd ("SAME" padding). The network has
    learnt the mean difference of the two, so at other sizes the anchors are placed where that difference is the same.
    Without this, AP at 416 pixels is .237 instead of .297.
    """
    cells, first, stride = receptive(size, level)
    own = (torch.arange(cells) + 0.5) / cells
    if size == SIDE:
        return own
    trained, trained_first, _ = receptive(SIDE, level)
    # Mean of stride * i + first - (i + .5) * SIDE / trained over the cells.
    learnt = trained_first + stride * (trained - 1) / 2 - SIDE / 2
    return (torch.arange(cells) * stride + (first - learnt)) / size


def receptive(size: int, level: int) -> tuple[int, float, int]:
    """Cells of a map along a side of `size` pixels, centre of the first receptive field in pixels, and stride."""
    first, stride = 0.5, 1
    for _ in range(4 + level):
        # A 3-tap filter of stride 2 starts at the first pixel of an even side, one before that of an odd one.
        first += stride * (1 - size % 2)
        size, stride = -(-size // 2), stride * 2
    return size, first, stride


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Map offsets [..., A, 4] (y, x, log h, log w) from anchors [..., A, 4] to boxes [..., A, 4] xyxy in 0..1."""
    y, x, height, width = offsets.unbind(-1)
    centre_x = x / CENTRE_SCALE * anchors[..., 2] + anchors[..., 0]
    centre_y = y / CENTRE_SCALE * anchors[..., 3] + anchors[..., 1]
    half_w = torch.exp(width / SIDE_SCALE) * anchors[..., 2] / 2
    half_h = torch.exp(height / SIDE_SCALE) * anchors[..., 3] / 2
    return torch.stack([centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h], -1)
