"""SSD's heads, computed only at the cells that a small gate picks.

The heads are 3 x 3 convolutions of 576 and 1,280 channels: two thirds of the SSD's work (1.27 of 1.88 GMAC at 300
pixels), and nearly all of their cells are background. With the 100, 60 and 30 best cells of the three large maps, AP on
142 images of val2017 is .367, as with all 1,361. A low-rank factorisation of the heads at that cost has .285.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.networks.ssd_rcnn.backbone import COARSE_LEVELS, GATED
from foursight.models.networks.ssd_rcnn.mobilenet import HEAD_LEVELS
from foursight.models.networks.ssd_rcnn.ssd_head import CLASSES, SIDE, SsdHead, anchors, rows, shapes

# How many cells of each gated map are picked.
PICKED = {"fine": 100, "ssd0": 60, "ssd1": 30}
# The maps that are not gated.
DENSE = COARSE_LEVELS[2:]
WIDTH = 4 + len(coco.IDS)


@dataclass(frozen=True)
class Picked:
    """The cells that were picked: for each gated map `cells` int64 [N, K], y * w + x, and `taps` [N * K, 9 * C]."""

    cells: dict[str, Tensor]
    taps: dict[str, Tensor]


class SparseHead(nn.Module):
    """The heads as matrix products over the 3 x 3 neighbourhoods of picked cells, for 80 of the 91 classes."""

    def __init__(self, head: SsdHead) -> None:
        super().__init__()
        self.products = nn.ModuleList(_product(head, level) for level in range(2))
        self.convolutions = nn.ModuleList(_convolution(head, level) for level in range(2, len(HEAD_LEVELS)))

    def forward(self, taps: dict[str, Tensor], maps: dict[str, Tensor]) -> list[Tensor]:
        """Taps of the gated maps and the small maps whole: for each map, rows [N * K, n * 84] or [N, n * 84, h, w]."""
        gated = [self.products[level](taps[name]) for name, level in GATED.items()]
        return gated + [conv(maps[name]) for conv, name in zip(self.convolutions, DENSE, strict=True)]


def pick(gates: dict[str, Tensor], maps: dict[str, Tensor]) -> Picked:
    """Pick the best cells of each gated map, and collect their neighbourhoods."""
    cells, taps = {}, {}
    for name, count in PICKED.items():
        flat = gates[name].flatten(1)
        cells[name] = flat.topk(min(count, flat.shape[1])).indices
        taps[name] = neighbours(maps[name], cells[name])
    return Picked(cells, taps)


def neighbours(level: Tensor, cells: Tensor) -> Tensor:
    """The 3 x 3 cells around cells [N, K] of a map [N, C, h, w], zero beyond its edge: [N * K, 9 * C]."""
    count, channels, height, width = level.shape
    padded = F.pad(level.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    table = padded.reshape(-1, channels)
    y, x = cells // width, cells % width
    first = torch.arange(count, device=cells.device)[:, None] * ((height + 2) * (width + 2)) + y * (width + 2) + x
    around = torch.tensor([dy * (width + 2) + dx for dy in range(3) for dx in range(3)], device=cells.device)
    return table[(first[:, :, None] + around).flatten()].view(-1, 9 * channels)


def gather(found: list[Tensor], picked: Picked, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs of the heads as one list of anchors for each image, those at 480 pixels first.

    Returns offsets float [N, A, 4], logits [N, A, 80] and the anchors [N, A, 4] (cx, cy, w, h in 0..1).
    """
    coarse, fine = (own.to(found[0]) for own in all_anchors(height, width))
    count = next(iter(picked.cells.values())).shape[0]
    answers, places = [], []
    # At 300 pixels: the anchors of levels 0 and 1, then those of the small maps, which are not gated.
    spans = {"fine": (fine, 3), "ssd0": (coarse[:1083], 3), "ssd1": (coarse[1083:1683], 6)}
    for answer, (name, (own, shapes_)) in zip(found, spans.items(), strict=False):
        answers.append(answer.view(count, -1, WIDTH))
        table = own.view(-1, shapes_, 4)
        places.append(table[picked.cells[name]].flatten(1, 2))
    for answer in found[len(spans) :]:
        answers.append(rows(answer, WIDTH))
    places.append(coarse[1683:].expand(count, -1, -1))
    both, centred = torch.cat(answers, 1), torch.cat(places, 1)
    return both[:, :, :4], both[:, :, 4:], centred


@cache
def all_anchors(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The anchors at 300 pixels, and those of the finest map at `height` x `width`, float32 [A, 4] each."""
    return anchors(SIDE, SIDE), anchors(height, width, relative=False, levels=1)


def _rows_of(head: SsdHead, level: int) -> tuple[Tensor, Tensor]:
    """Weights [n * 84, C, 3, 3] and biases [n * 84] of a level: for each shape of anchor 4 offsets and 80 logits."""
    count = len(shapes(level))
    parts = []
    for conv, width in ((head.boxes[level], 4), (head.classes[level], CLASSES)):
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        weight = conv.weight.detach().view(count, width, *conv.weight.shape[1:])
        bias = conv.bias.detach().view(count, width)
        columns = torch.arange(4) if width == 4 else torch.tensor(coco.IDS)
        parts.append((weight[:, columns], bias[:, columns]))
    return torch.cat([w for w, _ in parts], 1).flatten(0, 1), torch.cat([b for _, b in parts], 1).flatten()


def _product(head: SsdHead, level: int) -> nn.Linear:
    weight, bias = _rows_of(head, level)
    layer = nn.Linear(weight[0].numel(), len(weight))
    # The order of `neighbours`: cell by cell, each with all channels.
    layer.weight.data = weight.permute(0, 2, 3, 1).flatten(1).contiguous()
    layer.bias.data = bias
    return layer.requires_grad_(False)


def _convolution(head: SsdHead, level: int) -> nn.Conv2d:
    weight, bias = _rows_of(head, level)
    layer = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer.requires_grad_(False)
