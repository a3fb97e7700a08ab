"""The detector as torchvision's `GeneralizedRCNN`: transform, backbone, rpn, roi_heads.

SSD-MobileNetV2 at two scales proposes boxes that have logits of 80 classes already, so there is no box head: one that
was trained to correct boxes and scores lost to its control. The mask branch predicts masks. Faster R-CNN is the same
network without it.
"""

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from foursight.models.networks import stages
from foursight.models.networks.ssd_rcnn import boxes, graph
from foursight.models.networks.ssd_rcnn.backbone import Backbone
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.interface import WEIGHTS
from foursight.models.networks.ssd_rcnn.masks import MaskHead, MaskPool, MaskPredictor
from foursight.models.networks.ssd_rcnn.mobilenet import MobileNetSsd
from foursight.models.networks.ssd_rcnn.sparse_head import SparseHead
from foursight.models.networks.ssd_rcnn.ssd_head import SsdHead

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
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = MaskPool(), MaskHead(), MaskPredictor()
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
        found = self.head(features)
        each = zip(*(part.detach().cpu().numpy() for part in found), strict=True)
        return [torch.from_numpy(boxes.proposals(rows, cells)).to(found[0]) for rows, cells in each], {}


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
            score_thresh=boxes.SCORE_THRESHOLD,
            nms_thresh=boxes.NMS_IOU,
            detections_per_img=boxes.OBJECTS,
        )

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Map logits [sum P, K] to boxes [N, 4], scores [N] and class indices (1..K) [N]; there are no deltas."""
        counts = [len(rows) for rows in proposals]
        found = [
            boxes.detections(rows[:, :4].detach().cpu().numpy(), logits.detach().cpu().numpy(), self.score_thresh)
            for rows, logits in zip(proposals, torch.split(class_logits, counts), strict=True)
        ]
        kept, scores, indices = (
            [torch.from_numpy(part).to(class_logits.device) for part in parts] for parts in zip(*found, strict=True)
        )
        return kept, scores, indices


def shared_weights(network: GeneralizedRCNN) -> str:
    """Return the SHA-256 of all that fine-tuned models share.

    The mask branch is not part of it: models that use the built-in one need not be trained again when it changes.
    """
    return stages.digest({name: value for name, value in network.state_dict().items() if "roi_heads." not in name})


def share_masks(heads: RoIHeads, own: RoIHeads) -> None:
    """Give heads the mask branch of others, if they have one."""
    if own.has_mask():
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = (
            own.mask_roi_pool,
            own.mask_head,
            own.mask_predictor,
        )
