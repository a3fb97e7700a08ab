"""Segmentation: find every object with label, box and mask, by Mask R-CNN."""

from typing import Any

from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.results import Profile
from foursight.models.tasks import instances
from foursight.schema.options import SegmentOptions


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> instances.Rcnn:
    """Load the segmenter of a profile. Raises WeightsError, PrecisionError."""
    if profile == "tiny":
        return instances.load_tiny("mask-rcnn-ssd-mobilenet-v2", SegmentOptions, device, precision)
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2  # noqa: PLC0415

    from foursight.models.networks import weights  # noqa: PLC0415

    network = maskrcnn_resnet50_fpn_v2(weights_backbone=None)
    network.load_state_dict(weights.state_dict(published()))
    names = published().meta["categories"]
    return instances.of_torchvision("mask-rcnn-resnet50-fpn-v2", network, names, SegmentOptions, device, precision)


def published() -> Any:
    """Return the weights of the standard profile."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights  # noqa: PLC0415

    return MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
