"""The classification networks for engines (blueprints.py)."""

from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from foursight.models.engines import devices
from foursight.models.engines.builder import Network
from foursight.models.networks import backbone, cam, localizer
from foursight.models.networks.localizer import Localizer
from foursight.models.networks.presets import SQUARE_SIDE
from foursight.models.results import Profile


class Features(nn.Module):
    """The shared backbone, with the normalisation of its input: images cross to an engine as uint8."""

    def __init__(self, base: backbone.Backbone) -> None:
        super().__init__()
        self.network = base.network
        self.normalize = backbone.Normalize(base.mean, base.std)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, crop, crop, 3] to the last map, float32 [N, C, h, w]."""
        network: Any = self.network
        maps: Tensor = network.features(self.normalize(crops))
        return maps


class Head(nn.Module):
    """The built-in labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: Tensor) -> Tensor:
        """Map the last map, float32 [N, C, h, w], to probabilities [N, 1000]."""
        network: Any = self.network
        logits: Tensor = network.classify(maps.mean((2, 3)))
        return logits.softmax(1)


class WholeImage(nn.Module):
    """The network of the whole image: all but the search in an activation map, whose steps vary."""

    def __init__(self, base: backbone.Backbone, network: nn.Module) -> None:
        super().__init__()
        self.normalize = backbone.Normalize(base.mean, base.std)
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 [N, S, S, 3] to class probabilities [N, 1000], and boxes [N, 4] or activation maps [N, 1000, h, w].

        The tiny profile's network also returns the two maps that heads of fine-tuned models read.
        """
        pixels = self.normalize(images)
        if isinstance(self.network, Localizer):
            middle, semantic = self.network.features(pixels)
            logits, found = self.network.locate(middle, semantic)
            return logits.softmax(1), found, middle, semantic
        logits, found = self.network(pixels)
        return logits.softmax(1), found


def features(profile: Profile) -> Network:
    """Return `Features` for an engine; its facts are the size of the whole classifier. Raises WeightsError."""
    base = backbone.load(profile)

    def calibration(images: Iterator[Image.Image]) -> list[tuple[Tensor]]:
        return [(torch.tensor(base.view.crop_image(image))[None],) for image in images]

    crops = _examples(base.view.crop)
    return Network(Features(base).eval(), crops, {**devices.count_parameters(base.network)}, calibration=calibration)


def head(profile: Profile) -> Network:
    """Return `Head` for an engine. Raises WeightsError."""
    base = backbone.load(profile)
    with torch.no_grad():
        two, three = ((Features(base)(*crops),) for crops in _examples(base.view.crop))
    return Network(Head(base.network).eval(), (two, three))


def whole_image(profile: Profile) -> Network:
    """Return `WholeImage` for an engine. Raises WeightsError."""
    base = backbone.load(profile)
    network: nn.Module
    if profile == "tiny":
        own: Any = base.network
        network = localizer.load(own)
    else:
        network = cam.ActivationMaps(base.network)
    # Not in int8: with the backbone in int8 and the rest in float32, the mean IoU with float32's boxes was .75.
    return Network(WholeImage(base, network).eval(), _examples(SQUARE_SIDE), {**devices.count_parameters(network)})


def _examples(side: int) -> tuple[tuple[Tensor], tuple[Tensor]]:
    """Return two batches of noise, uint8 [N, side, side, 3] with different N."""
    noise = torch.Generator().manual_seed(0)
    two, three = (torch.randint(256, (n, side, side, 3), dtype=torch.uint8, generator=noise) for n in (2, 3))
    return (two,), (three,)
