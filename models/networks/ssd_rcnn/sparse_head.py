"""SSD's heads, computed only at the cells that a small gate picks.

The heads are 3 x 3 convolutions of 576 and 1,280 channels: two thirds of the SSD's work (1.27 of 1.88 GMAC at 300
pixels), and nearly all of their cells are background. With the 100, 60 and 30 best cells of the three large maps, AP on
142 images of val2017 is .367, as with all 1,361. A low-rank factorisation of the heads at that cost has .285.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.networks.ssd_rcnn.backbone import COARSE_LEVELS, GATED
from foursight.models.networks.ssd_rcnn.boxes import PICKED, WIDTH, shapes
from foursight.models.networks.ssd_rcnn.mobilenet import HEAD_LEVELS
from foursight.models.networks.ssd_rcnn.ssd_head import CLASSES, SsdHead, rows

# The maps that are not gated.
DENSE = COARSE_LEVELS[2:]


class SparseHead(nn.Module):
    """The heads as matrix products over the 3 x 3 neighbourhoods of picked cells, for 80 of the 91 classes."""

    def __init__(self, head: SsdHead) -> None:
        super().__init__()
        self.products = nn.ModuleList(_product(head, level) for level in range(2))
        self.convolutions = nn.ModuleList(_convolution(head, level) for level in range(2, len(HEAD_LEVELS)))

    def forward(self, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Map the backbone's maps to rows float [N, A, 84], 4 offsets and 80 logits for each anchor, and cells.

        The cells, int64 [N, 190], are y * w + x in the gated maps: the order of both is that of `boxes.proposals`.
        """
        picked = {name: pick(maps[f"gate {name}"], count) for name, (count, _) in PICKED.items()}
        found = [
            self.products[GATED[name]](neighbours(maps[name], cells)).view(cells.shape[0], -1, WIDTH)
            for name, cells in picked.items()
        ]
        found += [rows(conv(maps[name]), WIDTH) for conv, name in zip(self.convolutions, DENSE, strict=True)]
        return torch.cat(found, 1), torch.cat(list(picked.values()), 1)


def pick(gate: Tensor, count: int) -> Tensor:
    """Return the best cells by the logits of a gate, float [N, 1, h, w]: int64 [N, count]."""
    return gate.flatten(1).topk(count).indices


def neighbours(level: Tensor, cells: Tensor) -> Tensor:
    """Return the 3 x 3 cells around cells [N, K] of a map [N, C, h, w], zero beyond its edge: [N * K, 9 * C]."""
    count, channels, height, width = level.shape
    padded = F.pad(level.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    table = padded.reshape(-1, channels)
    y, x = cells // width, cells % width
    first = torch.arange(count, device=cells.device)[:, None] * ((height + 2) * (width + 2)) + y * (width + 2) + x
    around = torch.tensor([dy * (width + 2) + dx for dy in range(3) for dx in range(3)], device=cells.device)
    return table[(first[:, :, None] + around).flatten()].view(-1, 9 * channels)


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
