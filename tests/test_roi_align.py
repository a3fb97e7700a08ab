"""RoIAlign on a CPU, against torchvision's operators, for boxes inside, across and outside the map."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from foursight.models.networks import roi_align as pooling

EDGES = torch.tensor([
    [0, 0, 64, 48],  # all of the photo
    [-30, -20, 10, 12],  # over the corner
    [60, 40, 90, 70],
    [200, 200, 240, 240],  # outside
    [13.3, 7.7, 13.3, 7.7],  # without area
    [13.3, 7.7, 13.5, 47.9],  # thinner than a cell
    [0.4, 0.6, 63.9, 47.2],
])  # fmt: skip


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 60
    return torch.cat([corner, corner + torch.rand(count, 2) * 40], 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("side", "sampling_ratio"), [(7, 2), (14, 2), (2, 4), (1, 1)])
@pytest.mark.parametrize("aligned", [True, False])
def test_pooled_boxes_equal_those_of_torchvision(
    aligned: bool, side: int, sampling_ratio: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    level = torch.randn(2, 5, 12, 16).contiguous(memory_format=layout)
    rois = pooling.in_batch([torch.cat([EDGES, boxes(20)]), boxes(3)])
    found = pooling.roi_align_cpu(level, rois, side, 0.25, sampling_ratio, aligned)
    expected = roi_align(level, rois, side, 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_boxes_have_an_empty_result() -> None:
    level = torch.randn(1, 5, 12, 16)
    assert pooling.roi_align_cpu(level, torch.zeros(0, 5), 7, 0.25, 2, True).shape == (0, 5, 7, 7)


@pytest.mark.parametrize("align", [roi_align, pooling.roi_align_cpu])
def test_each_box_is_pooled_on_its_level(align: pooling.Align) -> None:
    torch.manual_seed(0)
    sizes = [(256, 320), (250, 300)]
    maps = {name: torch.randn(2, 4, 256 // stride, 320 // stride) for name, stride in (("0", 4), ("1", 8), ("2", 16))}
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    sides = torch.tensor([9.0, 30, 111, 113, 150, 226, 300])
    found = [torch.stack([0 * sides, 3 + 0 * sides, sides, 2 + 0.7 * sides], 1), torch.zeros(0, 4)]
    expected = pool(maps, found, sizes)
    mine = pooling.of_torchvision(pool)
    mine.align = align
    torch.testing.assert_close(mine(maps, found, sizes), expected, atol=1e-5, rtol=1e-5)
