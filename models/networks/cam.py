"""Class activation mapping (Zhou et al. 2016): a box for the main object from a classifier alone, nothing trained.

The standard profile localizes with it: the trained head of models/localizer.py fits the tiny profile's backbone only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAP_SIZE = 56
# Of the map's own range. Zhou et al. take .2 of the maximum; at .35 the boxes are tighter.
THRESHOLD = 0.35


class ActivationMaps(nn.Module):
    """Logits of the photo, and the activation map of each class."""

    def __init__(self, network: nn.Module) -> None:
        """`network` has the two halves of `backbone.Backbone.network`."""
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised float [N, 3, S, S] to logits [N, 1000] and maps [N, 1000, h, w]."""
        network: Any = self.network
        features = network.features(pixels)
        return network.classify(features.mean((2, 3))), class_maps(network, features)


def boxes(scores: Tensor, maps: Tensor) -> Tensor:
    """The box around the activation of the best class: scores [N, C] and maps [N, C, h, w] to [N, 4], xyxy in 0..1.

    The bias of the linear layer shifts a map and changes no box.
    """
    return box_of(maps[torch.arange(len(maps)), scores.argmax(1)])


def class_maps(network: Any, features: Tensor) -> Tensor:
    """The classifier at every place of a feature map: float [N, C, h, w] to [N, classes, h, w].

    Where the classifier is linear, the mean of a class's map over its places is that class's logit.
    """
    maps: Tensor = network.classify(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return maps


def evidence(maps: Tensor, logit: Callable[[Tensor], Tensor]) -> Tensor:
    """How much each place of the pooled map, float [1, C, h, w], has to do with one logit: float [h, w].

    Gradient times activation, summed over channels (Draelos and Carin 2020), times the number of places. After average
    pooling and a linear layer this is the class activation map. Maximum and L2 pooling scale with the map as the
    average does, so by Euler's theorem its mean is the logit less the bias for all three.
    """
    with torch.enable_grad():
        leaf = maps.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(logit(leaf), leaf)
    return (gradient * maps).sum(1)[0] * maps[0, 0].numel()


def box_of(maps: Tensor) -> Tensor:
    """The box around the part of each map [N, h, w] that holds its maximum and exceeds THRESHOLD: [N, 4] in 0..1."""
    large = F.interpolate(maps[:, None], size=(MAP_SIZE, MAP_SIZE), mode="bilinear")
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    inside = ((large - low) >= THRESHOLD * (high - low)).float()
    part = (large == high).float()
    # Grow from the maximum within the threshold until nothing changes: its connected component.
    while True:
        grown = F.max_pool2d(part, 3, stride=1, padding=1) * inside
        if torch.equal(grown, part):
            break
        part = grown
    columns, rows = part.amax(2)[:, 0], part.amax(3)[:, 0]
    return torch.stack((_first(columns), _first(rows), 1 - _first(columns.flip(1)), 1 - _first(rows.flip(1))), 1)


def _first(marks: Tensor) -> Tensor:
    """The place in 0..1 where each row of 0 and 1 [N, n] has its first 1."""
    return marks.argmax(1) / marks.shape[1]
