"""The classification backbones of both profiles behind one interface: preprocessing and network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import ResNet

from foursight.models.networks import lite0, weights
from foursight.models.networks.presets import PRESETS, CentreCrop
from foursight.models.results import Profile

PUBLISHED = ResNet50_Weights.IMAGENET1K_V2


@dataclass(frozen=True)
class Backbone:
    """A network with its preprocessing: crop the centre, normalise to (x - mean) / std, both in 0..255.

    `network` is a classifier in two halves: `features` maps normalised pixels, float [N, 3, H, W], to the last feature
    map, float [N, C, h, w]; `classify` maps spatially averaged features, float [..., C], to logits, float [..., 1000].
    """

    network: nn.Module
    name: str
    view: CentreCrop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map uint8 [N, H, W, 3] to normalised float32 [N, 3, H, W]."""
        return torch.as_tensor(Normalize(self.mean, self.std).to(pixels.device)(pixels))


class Normalize(nn.Module):
    """(x - mean) / std, as the first layer of a network."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 [N, H, W, 3] to normalised float32 [N, 3, H, W]."""
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


class ResNet50(nn.Module):
    """torchvision's ResNet-50 (He et al. 2015) with the two methods of `Backbone.network`."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.head = network.fc
        network.fc = nn.Identity()
        self.body = network

    def features(self, pixels: Tensor) -> Tensor:
        """Map float [N, 3, H, W] to float [N, 2048, H / 32, W / 32]."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(pixels))))
        x = body.layer4(body.layer3(body.layer2(body.layer1(x))))
        return torch.as_tensor(x)

    def classify(self, features: Tensor) -> Tensor:
        """Map float [..., 2048] to ImageNet logits, float [..., 1000]."""
        logits: Tensor = self.head(features)
        return logits


def load(profile: Profile) -> Backbone:
    """Load the classification backbone of a profile, in eval mode on the CPU. Raises WeightsError."""
    preset = PRESETS[profile]
    return Backbone(_network(profile), preset.name, preset.view, preset.mean, preset.std)


def _network(profile: Profile) -> nn.Module:
    if profile == "tiny":
        return lite0.load()
    network = resnet50()
    network.load_state_dict(weights.state_dict(PUBLISHED))
    return ResNet50(network).eval()
