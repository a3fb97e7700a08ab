"""A backbone as a chain of stages: the first stay frozen, and shared, while the later ones may be trained.

The stages are numbered as in the networks' papers, the stem being the first. EfficientNet-Lite0 has nine (Tan and Le
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
    """The stages of a backbone's network, in order; they hold its own layers, not copies.

    Run one after the other on float [N, 3, H, W] they give what `network.features` gives. Raises TypeError for a
    network of another kind.
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
    raise TypeError(f"{type(network).__name__} has no stages that are known here")


def run(stages: Sequence[nn.Module] | nn.ModuleList, x: Tensor) -> Tensor:
    """Put a map through stages, one after the other."""
    for stage in stages:
        x = stage(x)
    return x


def fingerprint(stages: nn.ModuleList) -> str:
    """SHA-256 of all parameters and buffers, in hexadecimal: what a head was trained on, and must be served on."""
    return digest(stages.state_dict())


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, in hexadecimal."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()
