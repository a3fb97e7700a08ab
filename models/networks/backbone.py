"""The classification backbones of both profiles behind one interface: preprocessing and network."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.resnet import ResNet

from foursight.models.networks import lite0, weights
from foursight.models.results import Profile

PUBLISHED = ResNet50_Weights.IMAGENET1K_V2


@dataclass(frozen=True)
class Backbone:
    """A network with its preprocessing: resize the shorter side, crop the centre, normalise to (x - mean) / std.

    `network` is a classifier in two halves: `features` maps normalised pixels, float [N, 3, H, W], to the last feature
    map, float [N, C, h, w]; `classify` maps spatially averaged features, float [..., C], to logits, float [..., 1000].
    `resize` is what the shorter side is resized to, `crop` the side of the crop; `mean` and `std` are in 0..255.
    """

    network: nn.Module
    name: str
    resize: int
    crop: int
    resample: Image.Resampling
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def crop_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the centre crop of the resized RGB image, uint8 [crop, crop, 3].

        Only the pixels of the crop are computed; the result is that of resizing the whole and cropping (tested).
        """
        return np.asarray(image.resize((self.crop, self.crop), self.resample, box=self.crop_box(image.size)))

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image of `size` (width, height) that the network sees: xyxy in pixels of the image."""
        # int() and not round(), as the reference implementation that our results reproduce.
        short = min(size)
        width, height = (int(self.resize * side / short) for side in size)
        # round() here, as torchvision's CenterCrop: an image of 640 x 427 has an odd margin.
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        x, y = size[0] / width, size[1] / height
        return left * x, top * y, (left + self.crop) * x, (top + self.crop) * y

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


def examples(side: int, device: torch.device) -> tuple[tuple[Tensor], tuple[Tensor]]:
    """Return two batches of noise, uint8 [N, side, side, 3] with different N, for `engine.compile`."""
    two, three = (torch.randint(256, (n, side, side, 3), dtype=torch.uint8).to(device) for n in (2, 3))
    return (two,), (three,)


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
    if profile == "tiny":
        mean, std = (lite0.MEAN,) * 3, (lite0.STD,) * 3
        return Backbone(lite0.load(), "efficientnet-lite0", 256, 224, Image.Resampling.BICUBIC, mean, std)
    network = resnet50()
    network.load_state_dict(weights.state_dict(PUBLISHED))
    # torchvision.transforms._presets.ImageClassification, in units of 0..255.
    preset = PUBLISHED.transforms()
    red, green, blue = ((255 * m, 255 * s) for m, s in zip(preset.mean, preset.std, strict=True))
    return Backbone(
        ResNet50(network).eval(),
        "resnet50",
        preset.resize_size[0],
        preset.crop_size[0],
        Image.Resampling.BILINEAR,
        (red[0], green[0], blue[0]),
        (red[1], green[1], blue[1]),
    )
