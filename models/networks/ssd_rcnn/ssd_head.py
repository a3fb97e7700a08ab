"""SSD's heads (Liu et al. 2016), as `ssd_mobilenet_v2_coco_2018_03_29` has them.

For a 300 x 300 image there are 1,917 anchors (boxes.py), each with four box offsets and 91 logits (background, then the
90 ids with which COCO numbers its 80 categories); a score is the sigmoid of a logit.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foursight.models.networks.ssd_rcnn.boxes import shapes
from foursight.models.networks.ssd_rcnn.mobilenet import HEAD_LEVELS

# Ids 1..90 of COCO are the classes; 0 is background, which sigmoid scores do not need.
CLASSES = 91


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
