"""A backbone as a sequence of stages: leading ones stay frozen and shared, later ones may be fine-tuned.

Stages are numbered as in the networks' papers; the stem is the first. EfficientNet-Lite0 has nine (Tan and Le
2019, table 1): the stem, seven runs of blocks, and the 1 x 1 convolution before pooling. ResNet-50 has five (He et al.
2015, table 1): conv1 with its max pooling, and conv2_x to conv5_x.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from foursight.models.networks.backbone import ResNet50
from foursight.models.networks.lite0 import STAGES, EfficientNetLite0


def split(network: nn.Module) -> nn.ModuleList:
    """Return a backbone's stages in order; they share its layers.

    Running them one after the other on float [N, 3, H, W] is the same as `network.features`. Raises TypeError for
    another kind of network.
    """
    if isinstance(network, EfficientNetLite0):
        blocks = iter(network._blocks)
        return nn.ModuleList(
            [
                nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6()),
                *(nn.Sequential(*islice(blocks, stage.repeats)) for stage in STAGES),
                nn.Sequential(network._conv_head, network._bn1, nn.ReLU6()),
            ]
        )
    if isinstance(network, ResNet50):
        body = network.body
        stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)
        return nn.ModuleList([stem, body.layer1, body.layer2, body.layer3, body.layer4])
    raise TypeError(f"{type(network).__name__} is neither EfficientNetLite0 nor ResNet50")


def run(stages: Sequence[nn.Module] | nn.ModuleList, x: Tensor) -> Tensor:
    """Run stages one after the other."""
    for stage in stages:
        x = stage(x)
    return x


def fingerprint(stages: nn.ModuleList) -> str:
    """Return the SHA-256 of all parameters and buffers, in hexadecimal. It identifies what a head was trained on."""
    return digest(stages.state_dict())


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors, in hexadecimal."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()
