"""The mask branch (He et al. 2017): 14 x 14 cells of four maps for each box, to one mask of 28 x 28 for all classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.networks.roi_align import Pool, in_batch
from foursight.models.networks.ssd_rcnn.backbone import PROJECTED
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE

CELLS = 14
CHANNELS = 48


class CellPool(Pool):
    """RoIAlign on several maps, whose channels are concatenated.

    All maps are pooled, not only the one that fits the size of the box (Hariharan et al. 2015, "Hypercolumns"): the
    coarse maps say what it is, the fine maps where it ends.
    """

    def __init__(self, maps: tuple[str, ...], cells: int) -> None:
        super().__init__()
        self.maps = maps
        self.cells = cells

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return sum(PROJECTED[name][1] for name in self.maps)

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Map boxes [P, 4] xyxy of each image, in pixels of 480 x 480, to float [sum P, C, cells, cells]."""
        return self.cells_of(features, in_batch(boxes))

    def cells_of(self, features: dict[str, Tensor], rois: Tensor) -> Tensor:
        """Map rois [M, 5], index of the image and xyxy, to float [M, C, cells, cells]."""
        pooled = []
        for name in self.maps:
            level = features[f"p{name}"]
            pooled.append(self.align(level, rois, self.cells, level.shape[3] / FINE_SIDE, 2, True))
        return torch.cat(pooled, 1)


def mask_pool() -> CellPool:
    """Return the pool of the mask branch."""
    return CellPool(tuple(PROJECTED), CELLS)


class MaskHead(nn.Module):
    """Three convolutions over a box's cells."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(mask_pool().channels, CHANNELS, 1), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2), nn.ReLU(),
        )  # fmt: skip

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 152, 14, 14] to float [M, 48, 14, 14]."""
        found: Tensor = self.convs(cells)
        return found


class MaskPredictor(nn.Module):
    """One mask, at twice the side of the mask head."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(CHANNELS, CHANNELS // 2, 2, 2)
        self.logits = nn.Conv2d(CHANNELS // 2, 1, 1)

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 48, 14, 14] to logits float [M, 81, 28, 28], a view of the same mask for each class."""
        # torchvision's `maskrcnn_inference` picks the mask of each object's class.
        return self.mask(cells)[:, None].expand(-1, len(coco.CATEGORIES) + 1, -1, -1)

    def mask(self, cells: Tensor) -> Tensor:
        """Map float [M, 48, 14, 14] to logits float [M, 28, 28]."""
        logits: Tensor = self.logits(F.relu(self.upsample(cells)))
        return logits[:, 0]
