"""Detection: find every object with label and box, by Faster R-CNN."""

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2

from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.networks import weights
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.results import Profile
from foursight.models.tasks import instances
from foursight.schema.options import DetectOptions

PUBLISHED = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> instances.Rcnn:
    """Load the detector of a profile. Raises WeightsError, PrecisionError."""
    if profile == "tiny":
        network, categories = ssd_rcnn.load(masks=False), instances.builtin_categories()
        return instances.load(
            network, "faster-rcnn-ssd-mobilenet-v2", profile, device, DetectOptions, categories, precision
        )
    network = fasterrcnn_resnet50_fpn_v2(weights_backbone=None)
    network.load_state_dict(weights.state_dict(PUBLISHED))
    categories = instances.published_categories(PUBLISHED)
    return instances.load(network, "faster-rcnn-resnet50-fpn-v2", profile, device, DetectOptions, categories, precision)
