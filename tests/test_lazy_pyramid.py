"""The pyramid's finest map, computed tile by tile, against torchvision's pyramid."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, roi_align

from foursight.models.engines import rcnn
from foursight.models.networks import lazy_pyramid
from foursight.models.networks import roi_align as pooling
from foursight.models.networks.lazy_pyramid import LazyLevel

HEIGHT, WIDTH = 24, 40


class Pyramid:
    """torchvision's, of two levels and normalised as after training, and its maps of two photos."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = FeaturePyramidNetwork([6, 10], 16, norm_layer=nn.BatchNorm2d)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
        self.network.eval()
        self.fine = torch.randn(2, 6, HEIGHT, WIDTH)
        coarse = torch.randn(2, 10, HEIGHT // 2, WIDTH // 2)
        with torch.no_grad():
            self.above = self.network.inner_blocks[1](coarse)
            self.expected = self.network(OrderedDict(a=self.fine, b=coarse))["a"]

    def smoothed(self) -> LazyLevel:
        tiles = lazy_pyramid.WinogradTiles(self.network.inner_blocks[0], self.network.layer_blocks[0])
        run = rcnn.compile_tiles(tiles, torch.device("cpu"))
        return LazyLevel(self.fine, self.above, run)


@pytest.fixture(scope="module")
def pyramid() -> Pyramid:
    return Pyramid()


def everywhere(size: int) -> Tensor:
    return torch.arange(size, dtype=torch.int32)[None]


@torch.no_grad()
def test_the_whole_map_equals_that_of_torchvision(pyramid: Pyramid) -> None:
    photos = torch.tensor([0, 1], dtype=torch.int32)
    found = pyramid.smoothed().around(photos, everywhere(HEIGHT).expand(2, -1), everywhere(WIDTH).expand(2, -1))
    torch.testing.assert_close(found, pyramid.expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_boxes_of_successive_calls_are_pooled_as_by_torchvision(pyramid: Pyramid) -> None:
    smoothed = pyramid.smoothed()
    for boxes in ([[0, 0, 30, 20], [90, 40, 160, 96]], [[20, 10, 70, 50]], [], [[-9, -9, 5, 5], [155, 90, 200, 120]]):
        rois = pooling.in_batch([torch.tensor(boxes).view(-1, 4), torch.tensor([[3.0, 50, 9, 77]])])
        found = pooling.roi_align_cpu(smoothed, rois, 7, 0.25, 2, True)
        torch.testing.assert_close(found, roi_align(pyramid.expected, rois, 7, 0.25, 2, True), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tiles_that_no_box_touches_are_not_computed(pyramid: Pyramid) -> None:
    tiles = lazy_pyramid.WinogradTiles(pyramid.network.inner_blocks[0], pyramid.network.layer_blocks[0])
    computed = []

    def run(*cells: Tensor) -> list[Tensor]:
        computed.append(len(cells[0]) // lazy_pyramid.SEEN**2)
        return [tiles(*cells)]

    smoothed = LazyLevel(pyramid.fine, pyramid.above, run)
    corner = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
    for _ in range(2):
        smoothed.around(torch.tensor([1], dtype=torch.int32), corner, corner)
    assert computed == [lazy_pyramid.MULTIPLE]
