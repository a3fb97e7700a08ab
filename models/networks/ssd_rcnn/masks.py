"""The mask branch (He et al. 2017): cells of four maps in each box, to one mask of 28 x 28 for all classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models import coco
from foursight.models.networks.roi_align import Pool, in_batch
from foursight.models.networks.ssd_rcnn.backbone import PROJECTED
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE

CELLS = 14
CHANNELS = 80
CONTEXT = 32
# The map that shows where objects end; it is pooled at the side of the mask as well.
EDGES = "c2"
EDGE_CHANNELS = 32
# Share of the input channels that training sets to zero.
DROPOUT = 0.1

# Cells [M, 152, 14, 14] and edge cells [M, 24, 28, 28] of M boxes.
Pooled = tuple[Tensor, Tensor]


class MaskPool(Pool):
    """RoIAlign on several maps, whose channels are concatenated, and on the finest map with smaller cells.

    All maps are pooled, not only the one that fits the size of the box (Hariharan et al. 2015, "Hypercolumns"): the
    coarse maps say what it is, the fine maps where it ends.
    """

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Pooled:
        """Map boxes [P, 4] xyxy of each image, in pixels of 480 x 480, to the cells of all."""
        return self.cells_of(features, in_batch(boxes))

    def cells_of(self, features: dict[str, Tensor], rois: Tensor) -> Pooled:
        """Map rois [M, 5], index of the image and xyxy, to their cells."""

        def pool(name: str, cells: int) -> Tensor:
            level = features[f"p{name}"]
            return self.align(level, rois, cells, level.shape[3] / FINE_SIDE, 2, True)

        return torch.cat([pool(name, CELLS) for name in PROJECTED], 1), pool(EDGES, 2 * CELLS)


class MaskHead(nn.Module):
    """Convolutions over a box's cells, and one at twice the side that sees the edges too."""

    def __init__(self) -> None:
        super().__init__()
        inputs = sum(channels for _, channels in PROJECTED.values())
        self.dropout = nn.Dropout2d(DROPOUT)
        self.reduce = nn.Conv2d(inputs, CHANNELS, 1)
        # The same for all cells: it tells the object from others in its box by what the box shows as a whole.
        self.context = nn.Sequential(nn.Linear(inputs, CONTEXT), nn.ReLU(), nn.Linear(CONTEXT, CHANNELS))
        self.convs = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2), nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.upsample = nn.ConvTranspose2d(CHANNELS, CHANNELS // 2, 2, 2)
        self.refine = nn.Conv2d(CHANNELS // 2 + PROJECTED[EDGES][1], EDGE_CHANNELS, 3, padding=1)

    def forward(self, pooled: Pooled) -> Tensor:
        """Map the cells of M boxes to float [M, 32, 28, 28]."""
        cells, edges = pooled
        cells = self.dropout(cells)
        x = F.relu(self.reduce(cells) + self.context(cells.mean((2, 3)))[:, :, None, None])
        x = F.relu(self.upsample(self.convs(x)))
        return F.relu(self.refine(torch.cat([x, edges], 1)))


class MaskPredictor(nn.Module):
    """One mask for all classes."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Conv2d(EDGE_CHANNELS, 1, 1)

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 32, 28, 28] to logits float [M, 81, 28, 28], a view of the same mask for each class."""
        # torchvision's `maskrcnn_inference` picks the mask of each object's class.
        return self.mask(cells)[:, None].expand(-1, len(coco.CATEGORIES) + 1, -1, -1)

    def mask(self, cells: Tensor) -> Tensor:
        """Map float [M, 32, 28, 28] to logits float [M, 28, 28]."""
        logits: Tensor = self.logits(cells)
        return logits[:, 0]
