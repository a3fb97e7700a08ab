"""Summary of a task's network: its layers by stage, and totals of parameters and multiply-adds."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from foursight.models import coco
from foursight.models.finetuned.classifier import TunedNetwork
from foursight.models.finetuned.networks import Labelled
from foursight.models.inspection.layer import Layer, Pair
from foursight.models.inspection.recorder import Part, record
from foursight.models.networks import backbone, lite0
from foursight.models.networks.cam import ActivationMaps
from foursight.models.networks.presets import SQUARE_SIDE
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.networks.ssd_rcnn.boxes import CANDIDATES
from foursight.models.results import Profile

# Side of the classifiers' centre crop, in both profiles.
CROP = 224


@dataclass(frozen=True)
class Stage:
    """Consecutive layers under one title."""

    name: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class NetworkSummary:
    """All layers of a network for an input of `size` (height, width), in the order in which they run.

    `parameters` counts the whole network, `unused_parameters` those that no layer of this task reads. `multiply_adds`
    is the sum over all layers, `region_multiply_adds` the part of it for regions, at their maximum number.
    """

    size: Pair
    stages: tuple[Stage, ...]
    parameters: int
    unused_parameters: int
    multiply_adds: int
    region_multiply_adds: int


class DetectorAndClassifier(nn.Module):
    """What answers `localize` in the tiny profile, without the voting network for images where nothing is found."""

    def __init__(self, detector: GeneralizedRCNN, classifier: lite0.EfficientNetLite0) -> None:
        super().__init__()
        self.detector = detector
        self.crop = Crop()
        self.classifier = classifier


class Crop(nn.Module):
    """Stands for the crop of the main object, resized for the classifier: here, of an object as large as the image."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float [N, 3, H, W] to [N, 3, 224, 224]."""
        return F.interpolate(pixels, (CROP, CROP), mode="bilinear")


def build(name: str, profile: Profile) -> nn.Module:
    """Build a task's network; that of the standard profile has random weights, which layers do not depend on.

    Raises WeightsError.
    """
    if profile == "tiny":
        builders = {
            "classify": lite0.load,
            "localize": lambda: DetectorAndClassifier(ssd_rcnn.load(masks=False), lite0.load()),
            "detect": lambda: ssd_rcnn.load(masks=False),
            "segment": lambda: ssd_rcnn.load(masks=True),
        }
    else:
        builders = {
            "classify": lambda: backbone.ResNet50(resnet50()),
            "localize": lambda: ActivationMaps(backbone.ResNet50(resnet50())),
            "detect": lambda: fasterrcnn_resnet50_fpn_v2(weights_backbone=None),
            "segment": lambda: maskrcnn_resnet50_fpn_v2(weights_backbone=None),
        }
    network: nn.Module = builders[name]()  # type: ignore[no-untyped-call]
    return network.eval()


def default_size(network: nn.Module) -> Pair:
    """Return the (height, width) of a network's input; for detection, where it varies, that of a 4:3 image."""
    if isinstance(network, DetectorAndClassifier):
        return default_size(network.detector)
    if isinstance(network, GeneralizedRCNN):
        height, longest = network.transform.min_size[-1], network.transform.max_size
        return _padded(network, (height, min(round(height * 4 / 3), longest)))
    if isinstance(network, ActivationMaps | Labelled):
        return (SQUARE_SIDE,) * 2
    return (CROP,) * 2


def summarize(network: nn.Module, size: Pair | None = None) -> NetworkSummary:
    """Summarize a network of any task for an input of `size` (height, width), by default its `default_size`.

    Detection networks round the size up to multiples of 32, or have one size, as they do with images.
    """
    if size is None:
        size = default_size(network)
    detector = network.detector if isinstance(network, DetectorAndClassifier) else network
    if isinstance(detector, GeneralizedRCNN):
        size = _padded(detector, size)
    layers = record(network, size, parts)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    staged = groupby(_staged(network, layers), itemgetter(0))
    return NetworkSummary(
        size=size,
        stages=tuple(Stage(title, tuple(layer for _, layer in members)) for title, members in staged),
        parameters=parameters,
        unused_parameters=parameters - sum(layer.parameters for layer in layers),
        multiply_adds=sum(layer.multiply_adds * layer.times for layer in layers),
        region_multiply_adds=sum(layer.multiply_adds * layer.times for layer in layers if layer.times > 1),
    )


def _padded(network: GeneralizedRCNN, size: Pair) -> Pair:
    """Return the size that a network pads an image to; that of the tiny profile stretches all images to one size."""
    if network.transform.fixed_size is not None:
        height, width = network.transform.fixed_size
        return height, width
    divisor = network.transform.size_divisible
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def parts(network: Any, pixels: Tensor) -> Iterator[Part]:
    """Return what runs for one image, float32 [1, 3, H, W], normalised; one region stands for all."""
    if isinstance(network, GeneralizedRCNN):
        yield from _detector_parts(network, pixels)
    elif isinstance(network, DetectorAndClassifier):
        yield from _detector_parts(network.detector, pixels)
        yield Part(lambda: _classify(network.classifier, network.crop(pixels)))
    elif isinstance(network, ActivationMaps | Labelled | TunedNetwork):
        yield Part(lambda: network(pixels))
    else:
        yield Part(lambda: _classify(network, pixels))


def _classify(network: Any, pixels: Tensor) -> Tensor:
    return torch.as_tensor(network.classify(network.features(pixels).mean((2, 3))))


def _detector_parts(network: Any, pixels: Tensor) -> Iterator[Part]:
    """Return the parts of an R-CNN, without selection: the heads see one region, the whole image."""
    rpn, heads = network.rpn, network.roi_heads
    size = (pixels.shape[2], pixels.shape[3])
    region = [torch.tensor([[0.0, 0.0, size[1], size[0]]], device=pixels.device)]
    features: dict[str, Tensor] = {}
    yield Part(lambda: features.update(network.backbone(pixels)))
    if isinstance(rpn, ssd_rcnn.SsdProposals):
        yield Part(lambda: rpn(ImageList(pixels, [size]), features))
        proposals = [torch.cat([region[0], region[0].new_zeros(1, len(coco.CATEGORIES))], 1)]
        times = CANDIDATES
    else:
        yield Part(lambda: rpn.head(list(features.values())))
        proposals, times = region, rpn.post_nms_top_n()
    yield Part(lambda: heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, [size]))), times)
    if heads.has_mask():
        yield Part(
            lambda: heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, region, [size]))),
            heads.detections_per_img,
        )


def _staged(network: nn.Module, layers: list[Layer]) -> Iterator[tuple[str, Layer]]:
    """Pair each layer with the title of its stage; a layer outside any known module stays in the stage before it."""
    title = "stem"
    find: Callable[[str], str | None] = partial(
        _stage, titles=_VOTING_TITLES if isinstance(network, Labelled) else _TITLES
    )
    if isinstance(network, DetectorAndClassifier):
        title, find = "detector: stem", _part_stage
    for layer in layers:
        title = find(layer.name) or title
        if isinstance(network, TunedNetwork):
            title = _own_stage(network, layer.name)
        yield title, layer


def _part_stage(name: str) -> str | None:
    """Return the title of a layer's stage in the detector or the classifier, with the name of that part."""
    part, _, inner = name.partition(".")
    title = "input" if part == "crop" else _stage(inner, _TITLES)
    return title and f"{part}: {title}"


def _own_stage(network: TunedNetwork, name: str) -> str:
    """Return the title of a layer's stage in a fine-tuned classifier: its number, and whether it is frozen."""
    stage = re.match(r"stages\.stage(\d+)", name)
    if stage is None:
        return "head"
    return f"stage {stage[1]}, {'frozen' if int(stage[1]) <= network.frozen else 'trained'}"


def _stage(name: str, titles: tuple[tuple[str, str], ...]) -> str | None:
    block = re.search(r"(?:^|\.)_blocks\.(\d+)", name)
    if block:
        return f"stage {_LITE0_STAGES[int(block[1])]}"
    inverted = re.search(r"scales\.network\.blocks\.(\d+)", name)
    if inverted:
        return f"stage {_MOBILENET_STAGES[int(inverted[1])]}"
    residual = re.search(r"(?:^|\.)body\.layer(\d)", name)
    if residual:
        return f"stage {residual[1]}"
    return next((title for pattern, title in titles if re.search(pattern, name)), None)


# Stage of each block of EfficientNet-Lite0, from 1.
_LITE0_STAGES = [stage for stage, row in enumerate(lite0.STAGES, 1) for _ in range(row.repeats)]
# Stage of each block of MobileNetV2, from 1 (Sandler et al. 2018, table 2).
_MOBILENET_STAGES = [stage for stage, repeats in enumerate((1, 2, 3, 4, 3, 3, 1), 1) for _ in range(repeats)]
_TITLES = (
    (r"_conv_stem|body\.(conv1|bn1|relu|maxpool)$|scales\.network\.stem", "stem"),
    (r"scales\.network\.last", "head"),
    (r"scales\.network\.extras", "extra layers"),
    (r"^backbone\.gates", "gates"),
    (r"^backbone\.projection", "projection"),
    (r"(_conv_head|network\._bn1|^_bn1|_fc|^head|network\.head)$", "head"),
    (r"^backbone\.fpn", "feature pyramid"),
    (r"^rpn\.", "region proposals"),
    (r"^roi_heads\.box", "box head"),
    (r"^roi_heads\.mask", "mask head"),
)
_VOTING_TITLES = (
    (r"_conv_stem$", "stem"),
    (r"^backbone\.(_conv_head|_bn1|_fc)$", "head"),
    (r"^head|^model\.votes", "voting head"),
    (r"^model\.labels$", "labels"),
)
