"""Fine-tuned models as whole networks, including the shared parts, for inspection."""

from pathlib import Path

from torch import Tensor, nn

from foursight.models.finetuned import classifier, detector, store
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.localizer import TunedLocalizer
from foursight.models.networks import backbone, lite0, localizer, stages
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.results import Profile

# Profiles by the name of their backbone.
PROFILES: dict[str, Profile] = {"efficientnet-lite0": "tiny", "ssd-mobilenet-v2": "tiny", "resnet50": "standard"}


def load(name: str, folder: Path) -> nn.Module:
    """Build the network of a fine-tuned model from its folder, in eval mode, on the CPU, in PyTorch.

    Returns a classifier.TunedNetwork, a Labelled, or torchvision's GeneralizedRCNN. Raises StoreError (unknown_model,
    model_corrupt, model_mismatch), and WeightsError if the weights of the backbone are not available.
    """
    spec = store.read_spec(name, folder)
    if spec.backbone.name not in PROFILES:
        raise store.mismatch_error(name, f"its backbone {spec.backbone.name} is not one of {', '.join(PROFILES)}")
    if spec.task == "classify":
        base = backbone.load(PROFILES[spec.backbone.name])
        published = stages.split(base.network)
        model, _ = classifier.load(name, folder, base, published, stages.fingerprint(published))
        return classifier.TunedNetwork(published, model).eval()
    if spec.task == "localize":
        shipped = localizer.load()
        shared = finetuned_localizer.fingerprint(shipped.head, shipped.backbone)
        own, _, _ = finetuned_localizer.load(name, folder, shipped.head, shared)
        return Labelled(shipped.backbone, own).eval()
    network = ssd_rcnn.load(spec.task == "segment")
    _, heads = detector.load(name, folder, spec.task, ssd_rcnn.shared_weights(network))
    if not heads.has_mask():
        ssd_rcnn.share_masks(heads, network.roi_heads)
    network.roi_heads = heads
    answering: nn.Module = network
    return answering


class Labelled(nn.Module):
    """The shared backbone and a fine-tuned localizer."""

    def __init__(self, shared: lite0.EfficientNetLite0, model: TunedLocalizer) -> None:
        super().__init__()
        self.backbone = shared
        self.model = model

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map images stretched to float [N, 3, 320, 320], normalised, to [N, 112, 20, 20] and [N, 1280, 10, 10]."""
        _, _, middle, last = self.backbone.pyramid(pixels)
        return middle, self.backbone.semantic(last)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map images as in `maps` to logits [N, K] and boxes [N, 4], xyxy in 0..1."""
        logits, boxes = self.model(*self.maps(pixels))
        return logits, boxes
