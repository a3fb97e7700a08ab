"""Class activation mapping (Zhou et al. 2016): a box for the main object from a classifier, without training.

The standard profile localizes with it, because the trained head of localizer.py fits only the tiny profile's backbone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAP_SIZE = 56
# As a fraction of the map's range. Zhou et al. use .2 of the maximum; with .35 boxes are tighter.
THRESHOLD = 0.35


class ActivationMaps(nn.Module):
    """A classifier's logits, and its activation map of each class."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network with the methods of `backbone.Backbone.network`."""
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised float [N, 3, S, S] to logits [N, 1000] and maps [N, 1000, h, w]."""
        network: Any = self.network
        features = network.features(pixels)
        return network.classify(features.mean((2, 3))), class_maps(network, features)


def boxes(scores: Tensor, maps: Tensor) -> Tensor:
    """Return the box around the best class's activation, [N, 4] xyxy in 0..1, from scores [N, C] and maps [N, C, h, w].

    The bias of the linear layer shifts a map, which does not change its box.
    """
    return box_of(maps[torch.arange(len(maps)), scores.argmax(1)])


def class_maps(network: Any, features: Tensor) -> Tensor:
    """Apply the classifier to each cell of a feature map: float [N, C, h, w] to [N, classes, h, w].

    If the classifier is linear, the mean of a class's map is the class's logit.
    """
    maps: Tensor = network.classify(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return maps


def evidence(maps: Tensor, logit: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the contribution of each cell of the pooled map, float [1, C, h, w], to one logit: float [h, w].

    It is gradient times activation, summed over channels (Draelos and Carin 2020), times the number of cells. For
    average pooling and a linear layer this is the class activation map. Average, maximum and L2 pooling are all
    homogeneous of degree one, so by Euler's theorem the mean is the logit without the bias for each of them.
    """
    with torch.enable_grad():
        leaf = maps.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(logit(leaf), leaf)
    return (gradient * maps).sum(1)[0] * maps[0, 0].numel()


def box_of(maps: Tensor) -> Tensor:
    """Return the box, [N, 4] xyxy in 0..1, of the part of each map [N, h, w] above THRESHOLD that has the maximum."""
    large = F.interpolate(maps[:, None], size=(MAP_SIZE, MAP_SIZE), mode="bilinear")
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    inside = ((large - low) >= THRESHOLD * (high - low)).float()
    part = (large == high).float()
    # The connected component of the maximum: grow from it within the threshold until nothing changes.
    while True:
        grown = F.max_pool2d(part, 3, stride=1, padding=1) * inside
        if torch.equal(grown, part):
            break
        part = grown
    columns, rows = part.amax(2)[:, 0], part.amax(3)[:, 0]
    return torch.stack((_first(columns), _first(rows), 1 - _first(columns.flip(1)), 1 - _first(rows.flip(1))), 1)


def _first(marks: Tensor) -> Tensor:
    """Return the position in 0..1 of the first 1 in each row of zeros and ones [N, n]."""
    return marks.argmax(1) / marks.shape[1]
