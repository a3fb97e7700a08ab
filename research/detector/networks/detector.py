"""The detector as torchvision's `GeneralizedRCNN`: transform, backbone, rpn, roi_heads.

SSD-MobileNetV2 at two scales proposes boxes with scores of 80 classes; the box head corrects both; the mask branch
predicts masks. Faster R-CNN is the same network without its mask branch. `load` loads the weights: the SSD's from the
graph (networks/ssd_weights.py), ours from `weights/`.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image, nms

from research.detector.networks import ssd_weights
from research.detector.networks.backbone import COARSE_LEVELS, FINE_SIDE, TwoScales
from research.detector.networks.mobilenet import MobileNetSsd
from research.detector.networks.names import CATEGORIES
from research.detector.networks.second_stage import (
    BOX_MAPS,
    BOX_SIDE,
    MASK_MAPS,
    MASK_SIDE,
    BoxHead,
    BoxPredictor,
    MaskHead,
    MaskPredictor,
    Projection,
    pool,
)
from research.detector.networks.sparse_head import GATED, Gates, SparseHead, gather, pick
from research.detector.networks.ssd_head import SsdHead, decode

WEIGHTS = Path(__file__).parent.parent / "weights"
NAMES = len(CATEGORIES)
# Anchors of each image that become proposals: all 4,617 find nothing more (AP .367 either way on 142 images).
CANDIDATES = 300
# A proposal is dropped if its IoU with a better one is higher, whatever their classes.
DOUBLE_IOU = 0.8
NMS_IOU = 0.5
# Prefixes of the parameters that are trained here; the others are those of the SSD.
TRAINED = ("backbone.projection.", "backbone.gates.", "roi_heads.")
BOX_PARTS = ("roi_heads.box_head.", "roi_heads.box_predictor.")
# Pairs of a box and a class that go into NMS.
PAIRS = 1000


class Backbone(nn.Module):
    """The frozen network at two scales, with the projection and the gates that are trained on its maps."""

    out_channels = 576

    def __init__(self, network: MobileNetSsd) -> None:
        super().__init__()
        self.scales = TwoScales(network)
        self.projection = Projection()
        self.gates = Gates()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Map float [N, 3, 480, 480] in -1..1 to the maps by name, float32.

        For the second stage "pc2" [N, 24, 120, 120], "pc3" [N, 32, 60, 60], "pfine" [N, 64, 30, 30] and "pssd1"
        [N, 32, 10, 10]; for the SSD's heads "fine" [N, 576, 30, 30] and "ssd0" to "ssd5", with the logits of the gates
        "gate fine", "gate ssd0" and "gate ssd1" [N, 1, h, w].
        """
        maps = self.scales(pixels)
        gates = {f"gate {name}": logits for name, logits in self.gates(maps).items()}
        projected: dict[str, Tensor] = self.projection(maps)
        return projected | {name: maps[name] for name in ("fine", *COARSE_LEVELS)} | gates


class SsdProposals(nn.Module):
    """SSD's heads in place of torchvision's `RegionProposalNetwork`: proposals have class scores already."""

    def __init__(self, head: SparseHead) -> None:
        super().__init__()
        self.head = head

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: object = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals of each image, float32 [P, 4 + 80], best first, and no losses.

        A row is a box xyxy in pixels of the resized image and the logits of the 80 classes; scores are their sigmoids.
        """
        picked = pick({name: features[f"gate {name}"] for name in GATED}, features)
        height, width = images.tensors.shape[2:]
        offsets, logits, centred = gather(self.head(picked.taps, features), picked, height, width)
        scale = offsets.new_tensor([width, height, width, height])
        found = []
        for own, names, anchors, size in zip(offsets, logits, centred, images.image_sizes, strict=True):
            boxes = clip_boxes_to_image(decode(own, anchors) * scale, size)
            found.append(best(boxes, names))
        return found, {}


def best(boxes: Tensor, logits: Tensor) -> Tensor:
    """Map boxes [A, 4] and logits [A, 80] of an image to its proposals [P, 84], best first, without duplicates."""
    scores, rows = logits.amax(1).topk(min(CANDIDATES, len(logits)))
    rows = rows[nms(boxes[rows], scores, DOUBLE_IOU)]
    return torch.cat([boxes[rows], logits[rows]], 1)


class BoxPool(nn.Module):
    """The input of the box head: the cells of each proposal, and the SSD's logits."""

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Map proposals [P, 84] of each image to cells float [sum P, 128, 7, 7] and logits [sum P, 80]."""
        cells = pool(features, [rows[:, :4] for rows in proposals], BOX_SIDE, BOX_MAPS, FINE_SIDE)
        return cells, torch.cat([rows[:, 4:] for rows in proposals])


class MaskPool(nn.Module):
    """The input of the mask head: the cells of each box."""

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Map boxes [M, 4] xyxy of each image to float [sum M, 152, 14, 14]."""
        return pool(features, boxes, MASK_SIDE, MASK_MAPS, FINE_SIDE)


class Expanded(MaskPredictor):
    """The mask predictor as torchvision's `maskrcnn_inference` expects it: the one mask as a view for each class."""

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [M, 48, 14, 14] to logits float [M, 81, 28, 28]."""
        return super().forward(cells).expand(-1, NAMES + 1, -1, -1)


class RefiningHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's `RoIHeads`, with sigmoid scores, and box deltas that are the same for every class."""

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Map logits [sum P, 80] and deltas [sum P, 4] to boxes [N, 4], scores [N] and class indices (1..80) [N]."""
        counts = [len(rows) for rows in proposals]
        moved = self.box_coder.decode(box_regression, [rows[:, :4] for rows in proposals])[:, 0].split(counts)
        boxes, scores, indices = [], [], []
        for own, logits, size in zip(moved, torch.split(class_logits, counts), image_shapes, strict=True):
            every = logits.sigmoid()
            rows, names = (every > self.score_thresh).nonzero(as_tuple=True)
            values, order = every[rows, names].topk(min(PAIRS, len(rows)))
            rows, names = rows[order], names[order]
            clipped = clip_boxes_to_image(own, size)[rows]
            keep = batched_nms(clipped, values, names, self.nms_thresh)[: self.detections_per_img]
            boxes.append(clipped[keep])
            scores.append(values[keep])
            indices.append(names[keep] + 1)
        return boxes, scores, indices


def build(masks: bool, score_threshold: float = 0.05) -> GeneralizedRCNN:
    """Build the network with the SSD's weights and untrained parts of ours. Raises as `ssd_weights.state_dict` does."""
    return compose(*ssd_weights.load(), masks, score_threshold)


def compose(network: MobileNetSsd, head: SsdHead, masks: bool, score_threshold: float = 0.05) -> GeneralizedRCNN:
    """Put the network together in eval mode on the CPU, float32.

    It maps a list of images, float32 [3, H, W] in 0..1, to a dict for each: `boxes` float32 [N, 4] xyxy in pixels of
    the image, `labels` int64 [N] class indices, `scores` float32 [N] and, with `masks`, `masks` float32 [N, 1, H, W].
    """
    heads = RefiningHeads(
        BoxPool(),
        BoxHead(),
        BoxPredictor(),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=128,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=score_threshold,
        nms_thresh=NMS_IOU,
        detections_per_img=100,
    )
    if masks:
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = MaskPool(), MaskHead(), Expanded()
    # The SSD was trained on images that are stretched to a square. Images of all shapes fit into one batch.
    transform = GeneralizedRCNNTransform(
        FINE_SIDE, FINE_SIDE, [0.5] * 3, [0.5] * 3, size_divisible=32, fixed_size=(FINE_SIDE, FINE_SIDE)
    )
    return GeneralizedRCNN(Backbone(network), SsdProposals(SparseHead(head)), heads, transform).eval()


def load(masks: bool, score_threshold: float = 0.05) -> GeneralizedRCNN:
    """Return `build` with our weights."""
    network = build(masks, score_threshold)
    restore(network, load_file(WEIGHTS / "detector.safetensors"))
    return network


def restore(network: GeneralizedRCNN, state: dict[str, Tensor]) -> None:
    """Load our weights; without a mask branch, its weights are ignored. Raises KeyError if the keys do not fit.

    Weights without a box head are complete: untrained, it changes nothing.
    """
    state = {key: value.float() for key, value in state.items()}
    if not network.roi_heads.has_mask():
        state = {key: value for key, value in state.items() if not key.startswith("roi_heads.mask_")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    optional = () if any(key.startswith(BOX_PARTS) for key in state) else BOX_PARTS
    ours = [key for key in missing if key.startswith(TRAINED) and not key.startswith(optional)]
    if ours or unexpected:
        raise KeyError(f"the weights do not fit the network: {', '.join(sorted((*ours, *unexpected)))}")
