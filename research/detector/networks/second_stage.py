"""The second stage: projected maps, the box head as a residual on the SSD's outputs, and the mask branch.

Faster R-CNN (Ren et al. 2015) with the heads of Mask R-CNN (He et al. 2017). The last layers of the box head start at
zero: before training, boxes and scores are exactly those of the SSD.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from research.detector.networks.names import CATEGORIES

# The maps of the second stage: channels, channels after the projection, cells along a side of the image.
MAPS = {"c2": (24, 24, 120), "c3": (32, 32, 60), "fine": (576, 64, 30), "ssd1": (1280, 32, 10)}
# The heads see the channels of these maps concatenated.
BOX_MAPS, MASK_MAPS = ("c3", "fine", "ssd1"), ("c2", "c3", "fine", "ssd1")
BOX_CHANNELS, MASK_CHANNELS = (sum(MAPS[name][1] for name in names) for names in (BOX_MAPS, MASK_MAPS))
CHANNELS = 48
HIDDEN = 128
BOX_SIDE, MASK_SIDE = 7, 14
NAMES = len(CATEGORIES)


class Projection(nn.Module):
    """The maps with few channels, each of mean 0 and standard deviation 1.

    Maps of 576 and 1,280 channels are reduced to their first principal components. train_projection.py finds them
    without labels; they are fixed, so that training pools each box once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(inputs, outputs, 1) for name, (inputs, outputs, _) in MAPS.items()})
        self.requires_grad_(False)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the maps of MAPS, float [N, C, h, w], to float [N, C', h, w] under their names with a "p" before."""
        return {f"p{name}": conv(maps[name]) for name, conv in self.convs.items()}


class BoxHead(nn.Module):
    """Two layers over a proposal's 7 x 7 cells; the SSD's logits are passed through."""

    def __init__(self) -> None:
        super().__init__()
        self.fc6 = nn.Linear(BOX_CHANNELS * BOX_SIDE**2, HIDDEN)
        self.fc7 = nn.Linear(HIDDEN + NAMES, HIDDEN)

    def forward(self, pooled: tuple[Tensor, Tensor]) -> Tensor:
        """Map cells float [P, 128, 7, 7] and the SSD's logits [P, 80] to float [P, 128 + 80]."""
        cells, logits = pooled
        hidden = F.relu(self.fc6(cells.flatten(1)))
        hidden = F.relu(self.fc7(torch.cat([hidden, logits.sigmoid()], 1)))
        return torch.cat([hidden, logits], 1)


class BoxPredictor(nn.Module):
    """Corrections of the SSD's logits and boxes, both zero before training."""

    def __init__(self) -> None:
        super().__init__()
        # One correction for all classes needs few training images; a correction for each class needs many.
        self.quality = nn.Linear(HIDDEN, 1)
        self.names = nn.Linear(HIDDEN, NAMES)
        self.deltas = nn.Linear(HIDDEN, 4)
        for layer in (self.quality, self.names, self.deltas):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map float [P, 128 + 80] to logits [P, 80] and box deltas [P, 4], the same for every class."""
        hidden, logits = features[:, :HIDDEN], features[:, HIDDEN:]
        return logits + self.quality(hidden) + self.names(hidden), self.deltas(hidden)


class MaskHead(nn.Module):
    """Three convolutions over a box's 14 x 14 cells."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(MASK_CHANNELS, CHANNELS, 1), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2), nn.ReLU(),
        )  # fmt: skip

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 152, 14, 14] to float [M, 48, 14, 14]."""
        found: Tensor = self.convs(cells)
        return found


class MaskPredictor(nn.Module):
    """One mask for all classes, at twice the side of the mask head."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(CHANNELS, CHANNELS // 2, 2, 2)
        self.logits = nn.Conv2d(CHANNELS // 2, 1, 1)

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 48, 14, 14] to logits float [M, 1, 28, 28]."""
        found: Tensor = self.logits(F.relu(self.upsample(cells)))
        return found


def pool(maps: dict[str, Tensor], boxes: list[Tensor], side: int, names: tuple[str, ...], size: int) -> Tensor:
    """RoIAlign on each of the maps: boxes [P, 4] xyxy of each image of `size` pixels to float [sum P, C, side, side].

    All maps are pooled, not only the one that fits the size of the box (Hariharan et al. 2015, "Hypercolumns"): the
    coarse maps say what it is, the fine maps where it ends.
    """
    photo = torch.cat([own.new_full((len(own), 1), index) for index, own in enumerate(boxes)])
    rois = torch.cat([photo, torch.cat(boxes)], 1)
    return torch.cat(
        [roi_align(maps[f"p{name}"], rois, side, maps[f"p{name}"].shape[3] / size, 2, True) for name in names], 1
    )
