"""Detection: find every object with label and box, by Faster R-CNN."""

from typing import Any

from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.results import Profile
from foursight.models.tasks import instances
from foursight.schema.options import DetectOptions


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> instances.Rcnn:
    """Load the detector of a profile. Raises WeightsError, PrecisionError."""
    if profile == "tiny":
        return instances.load_tiny("faster-rcnn-ssd-mobilenet-v2", DetectOptions, device, precision)
    from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2  # noqa: PLC0415

    from foursight.models.networks import weights  # noqa: PLC0415

    network = fasterrcnn_resnet50_fpn_v2(weights_backbone=None)
    network.load_state_dict(weights.state_dict(published()))
    names = published().meta["categories"]
    return instances.of_torchvision("faster-rcnn-resnet50-fpn-v2", network, names, DetectOptions, device, precision)


def published() -> Any:
    """Return the weights of the standard profile."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights  # noqa: PLC0415

    return FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
