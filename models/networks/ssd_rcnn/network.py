"""The detector as torchvision's `GeneralizedRCNN`: transform, backbone, rpn, roi_heads.

SSD-MobileNetV2 at two scales proposes boxes that have logits of 80 classes already, so there is no box head: one that
was trained to correct boxes and scores lost to its control. The mask branch predicts masks. Faster R-CNN is the same
network without it.
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

from foursight.models.networks.ssd_rcnn import graph
from foursight.models.networks.ssd_rcnn.backbone import FINE_SIDE, GATED, Backbone
from foursight.models.networks.ssd_rcnn.masks import MaskHead, MaskPredictor, mask_pool
from foursight.models.networks.ssd_rcnn.mobilenet import MobileNetSsd
from foursight.models.networks.ssd_rcnn.sparse_head import DENSE, SparseHead, gather, pick
from foursight.models.networks.ssd_rcnn.ssd_head import SsdHead, decode

WEIGHTS = Path(__file__).parents[2] / "weights" / "detector.safetensors"
# Anchors of each image that become proposals: all 4,617 find nothing more (AP .367 either way on 142 images).
CANDIDATES = 300
# A proposal is dropped if its IoU with a better one is higher, whatever their classes.
DUPLICATE_IOU = 0.8
NMS_IOU = 0.5
SCORE_THRESHOLD = 0.05
# Pairs of a box and a class that go into NMS.
PAIRS = 1000
# Prefixes of the parameters that are ours; the others are those of the SSD.
TRAINED = ("backbone.projection.", "backbone.gates.", "roi_heads.mask_")


def load(masks: bool) -> GeneralizedRCNN:
    """Return the network of `compose` with its weights. Raises WeightsError."""
    network = compose(*graph.load(), masks)
    restore(network, load_file(WEIGHTS))
    return network


def compose(backbone: MobileNetSsd, head: SsdHead, masks: bool) -> GeneralizedRCNN:
    """Put the network together in eval mode on the CPU, float32; the parts that are ours are untrained.

    It maps a list of images, float32 [3, H, W] in 0..1, to a dict for each: `boxes` float32 [N, 4] xyxy in pixels of
    the image, `labels` int64 [N] class indices, `scores` float32 [N] and, with `masks`, `masks` float32 [N, 1, H, W].
    """
    heads = SigmoidHeads(ProposalLogits(), Unmoved(), nn.Identity())
    if masks:
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = mask_pool(), MaskHead(), MaskPredictor()
    # The SSD was trained on images that are stretched to a square. Images of all shapes fit into one batch.
    transform = GeneralizedRCNNTransform(
        FINE_SIDE, FINE_SIDE, [0.5] * 3, [0.5] * 3, size_divisible=32, fixed_size=(FINE_SIDE, FINE_SIDE)
    )
    return GeneralizedRCNN(Backbone(backbone), SsdProposals(SparseHead(head)), heads, transform).eval()


def restore(network: GeneralizedRCNN, state: dict[str, Tensor]) -> None:
    """Load the weights that are ours; those of a mask branch are ignored if the network has none.

    Raises KeyError if the keys do not fit.
    """
    state = {key: value.float() for key, value in state.items()}
    if not network.roi_heads.has_mask():
        state = {key: value for key, value in state.items() if not key.startswith("roi_heads.mask_")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [key for key in missing if key.startswith(TRAINED)] + list(unexpected)
    if wrong:
        raise KeyError(f"the weights do not fit the network: {', '.join(sorted(wrong))}")


class SsdProposals(nn.Module):
    """SSD's heads in place of torchvision's `RegionProposalNetwork`: proposals have class logits already."""

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
        found = self.head(picked.taps, {name: features[name] for name in DENSE})
        offsets, logits, anchors = gather(found, picked, height, width)
        scale = offsets.new_tensor([width, height, width, height])
        boxes = decode(offsets, anchors) * scale
        return [
            best(clip_boxes_to_image(own, size), scores)
            for own, scores, size in zip(boxes, logits, images.image_sizes, strict=True)
        ], {}


def best(boxes: Tensor, logits: Tensor) -> Tensor:
    """Map boxes [A, 4] and logits [A, 80] of an image to its proposals [P, 84], best first, without duplicates."""
    scores, rows = logits.amax(1).topk(min(CANDIDATES, len(logits)))
    rows = rows[nms(boxes[rows], scores, DUPLICATE_IOU)]
    return torch.cat([boxes[rows], logits[rows]], 1)


class ProposalLogits(nn.Module):
    """In place of a pool: all that is needed of a proposal is in its row."""

    def forward(self, features: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Map proposals [P, 84] of each image to their logits [sum P, 80]."""
        return torch.cat([rows[:, 4:] for rows in proposals])


class Unmoved(nn.Module):
    """In place of a box head and its predictor: classes and boxes are those of the proposals."""

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Map logits [P, 80] to themselves and box deltas [P, 4], all zero."""
        return logits, logits.new_zeros(len(logits), 4)


class SigmoidHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's `RoIHeads` for proposals [P, 84], with sigmoid scores, and the same box deltas for all classes."""

    def __init__(self, pool: nn.Module, head: nn.Module, predictor: nn.Module) -> None:
        super().__init__(
            pool,
            head,
            predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=128,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_IOU,
            detections_per_img=100,
        )

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Map logits [sum P, K] and deltas [sum P, 4] to boxes [N, 4], scores [N] and class indices (1..K) [N]."""
        counts = [len(rows) for rows in proposals]
        moved = self.box_coder.decode(box_regression, [rows[:, :4] for rows in proposals])[:, 0].split(counts)
        boxes, scores, indices = [], [], []
        for own, logits, size in zip(moved, torch.split(class_logits, counts), image_shapes, strict=True):
            every = logits.sigmoid()
            rows, classes = (every > self.score_thresh).nonzero(as_tuple=True)
            values, order = every[rows, classes].topk(min(PAIRS, len(rows)))
            rows, classes = rows[order], classes[order]
            clipped = clip_boxes_to_image(own, size)[rows]
            keep = batched_nms(clipped, values, classes, self.nms_thresh)[: self.detections_per_img]
            boxes.append(clipped[keep])
            scores.append(values[keep])
            indices.append(classes[keep] + 1)
        return boxes, scores, indices
