"""The tiny profile's voting localizer: one backbone pass for the box of the main object and the logits of its class.

It answers where the detector finds nothing, and for fine-tuned localizers (tasks/localize.py).

A small trained head on the frozen EfficientNet-Lite0 votes for boxes; weights/LOCALIZER.md describes its training.

    pixels [N, 3, 320, 320] -> lite0 -> [N, 112, 20, 20] and [N, 1280, 10, 10] -> VotingHead -> 400 boxes, with weights
                                                    |                                             |
                                                    |                                         consensus
                                                    v                                             v
              logits [N, 1000] <- lite0.classify <- mean over the box <---------------------- box [N, 4]

Boxes are xyxy in 0..1, x relative to the image's width and y to its height. Images are stretched to a square, so that
nothing is cropped or padded.
"""

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from foursight.models.networks import lite0
from foursight.models.networks.presets import LOCALIZER_WEIGHTS

CHANNELS = 96
BLOCKS = 3
# Comparing boxes is quadratic. The 100 heaviest have .90 of the votes, and are as accurate as all 400 on the COCO
# validation images (accuracy .618 for both; mean IoU .528 and .530).
COMPARED_VOTES = 100


class Refine(nn.Module):
    """Residual depthwise-separable convolution, 5 x 5, with group normalisation (Wu and He 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.GroupNorm(8, channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map float [N, C, H, W] to the same shape."""
        refined: Tensor = x + self.pointwise(F.relu(self.norm(self.depthwise(x))))
        return refined


class VotingHead(nn.Module):
    """Each cell of the stride-16 map predicts a box, as in FCOS (Tian et al. 2019), and the weight of its vote."""

    def __init__(self) -> None:
        super().__init__()
        self.from_semantic = nn.Conv2d(lite0.NUM_FEATURES, CHANNELS, 1)
        self.from_middle = nn.Conv2d(lite0.PYRAMID_TAPS[2][2], CHANNELS, 1)
        self.from_whole = nn.Linear(lite0.NUM_FEATURES, CHANNELS)
        self.from_place = nn.Conv2d(5, CHANNELS, 1)
        self.blocks = nn.Sequential(*(Refine(CHANNELS) for _ in range(BLOCKS)))
        self.norm = nn.GroupNorm(8, CHANNELS)
        self.out = nn.Conv2d(CHANNELS, 5, 1)

    def forward(self, middle: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Map float [N, 112, h, w] and [N, 1280, h / 2, w / 2] to vote logits [N, h * w] and boxes [N, h * w, 4]."""
        centres = cell_centres(middle)
        coarse = self.from_semantic(semantic) + self.from_whole(semantic.mean((2, 3)))[:, :, None, None]
        x = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear") + self.from_middle(middle)
        x = x + self.from_place(_place(centres))
        out = self.out(F.relu(self.norm(self.blocks(x))))
        # Distances to the left, top, right and bottom side, between 0.002 and e times the image.
        left_top, right_bottom = out[:, 1:].clamp(-6, 1).exp().chunk(2, dim=1)
        boxes = torch.cat((centres - left_top, centres + right_bottom), 1)
        return out[:, 0].flatten(1), boxes.flatten(2).transpose(1, 2)


def cell_centres(grid: Tensor) -> Tensor:
    """Return the centres (x, y) of the cells of a map [N, C, h, w], as [2, h, w] in 0..1, on its device."""
    y, x = ((torch.arange(n, device=grid.device, dtype=grid.dtype) + 0.5) / n for n in grid.shape[-2:])
    return torch.stack((x.expand(len(y), -1), y[:, None].expand(-1, len(x))))


def _place(centres: Tensor) -> Tensor:
    """Return the cells' positions, float [1, 5, h, w], linear and quadratic: main objects are mostly in the middle."""
    x, y = centres - 0.5
    return torch.stack((x, y, 4 * x * x, 4 * y * y, 4 * x * y))[None]


def consensus(votes: Tensor, boxes: Tensor) -> Tensor:
    """Return the box that the votes agree on, [N, 4] in 0..1, from vote logits [N, M] and boxes [N, M, 4].

    The winner has the highest expected IoU with a box drawn by vote weight (minimum Bayes risk), and is then averaged
    with the boxes that overlap it by half or more. The heaviest vote alone is less accurate, and the mean of all boxes
    falls between objects that are side by side: weights/LOCALIZER.md has the figures.
    """
    weights, order = votes.softmax(1).topk(min(COMPARED_VOTES, votes.shape[1]), dim=1)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    overlaps = iou(boxes[:, :, None], boxes[:, None])
    winner = (overlaps * weights[:, None]).sum(2).argmax(1)
    # Not len(boxes), which tracing for an engine would make a constant.
    nearby = overlaps[torch.arange(boxes.shape[0], device=boxes.device), winner] >= 0.5
    weights = (weights * nearby)[..., None]
    return ((boxes * weights).sum(1) / weights.sum(1)).clamp(0, 1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes [..., 4] and [..., 4], broadcast.

    torchvision.ops.box_iou compares two lists only, and cannot be traced with a batch dimension.
    """
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    both = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (both - shared)


def pool(features: Tensor, boxes: Tensor) -> Tensor:
    """Return the mean of features [N, C, h, w] over boxes [N, 4], as [N, C]; cells are weighted by their overlap."""
    height, width = features.shape[-2:]
    rows = _covered(boxes[:, 1::2], height)
    columns = _covered(boxes[:, 0::2], width)
    return torch.einsum("nchw,nh,nw->nc", features, rows, columns)


def _covered(spans: Tensor, cells: int) -> Tensor:
    """Return the overlap of spans [N, 2] in 0..1 with `cells` equal cells, [N, cells], each row summing to 1."""
    edges = torch.arange(cells + 1, device=spans.device, dtype=spans.dtype) / cells
    covered = (torch.minimum(spans[:, 1:], edges[1:]) - torch.maximum(spans[:, :1], edges[:-1])).clamp(min=0)
    return covered / covered.sum(1, keepdim=True)


class Localizer(nn.Module):
    """The frozen backbone and the head."""

    def __init__(self, backbone: lite0.EfficientNetLite0) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = VotingHead()

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels as in `forward` to the head's two inputs: [N, 112, 20, 20] and [N, 1280, 10, 10]."""
        _, _, middle, last = self.backbone.pyramid(pixels)
        return middle, self.backbone.semantic(last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map images stretched to float [N, 3, 320, 320], as (x - 127) / 128, to logits [N, 1000] and boxes [N, 4]."""
        return self.locate(*self.features(pixels))

    def locate(self, middle: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        """Map the two maps of `features` to logits and boxes, as `forward`."""
        boxes = consensus(*self.head(middle, semantic))
        return self.backbone.classify(pool(semantic, boxes)), boxes


def load(backbone: lite0.EfficientNetLite0 | None = None) -> Localizer:
    """Build the localizer with its weights, in eval mode, float32, on the CPU. It may share a classifier's backbone."""
    localizer = Localizer(backbone or lite0.load())
    localizer.head.load_state_dict(load_file(LOCALIZER_WEIGHTS), strict=True)
    return localizer.eval()
