"""RoIAlign (He et al. 2017, section 3): pool each box from the pyramid level that fits its size.

On a CPU each output cell is computed as a weighted sum of 16 cells of the map, by an embedding bag over the map's rows
of channels. For 250 boxes on a map of 128 x 144 x 180 this takes 2 ms; torchvision's operator, which goes through the
map channel by channel in one thread, takes 20 to 37 ms.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign, roi_align

Align = Callable[[Any, Tensor, int, float, int, bool], Tensor]


class Pool(nn.Module):
    """Pools boxes by `align`: torchvision's operator, which has gradients, or `roi_align_cpu`, which has none."""

    align: Align = staticmethod(roi_align)


class LevelPool(Pool):
    """RoIAlign on the pyramid's level that fits a box's size (Lin et al. 2017, equation 1).

    `scales` maps the name of each level to its scale, the map's side / the image's side; `level_of` returns the index
    of each box's level. With `aligned`, the centre of a map's first cell is half a cell from the edge, else at the
    origin.
    """

    def __init__(
        self,
        side: int,
        scales: dict[str, float],
        level_of: Callable[[list[Tensor]], Tensor],
        aligned: bool,
        sampling_ratio: int = 2,
    ) -> None:
        super().__init__()
        self.side = side
        self.scales = scales
        self.level_of = level_of
        self.aligned = aligned
        self.sampling_ratio = sampling_ratio

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Pool boxes [P, 4] xyxy of each image to float32 [sum P, C, side, side]."""
        rois_of_batch = in_batch(boxes)
        levels = self.level_of(boxes)
        channels = features[next(iter(self.scales))].shape[1]
        shape = (len(rois_of_batch), channels, self.side, self.side)
        pooled = torch.empty(shape, device=rois_of_batch.device, memory_format=torch.channels_last)
        for index, (name, scale) in enumerate(self.scales.items()):
            rows = (levels == index).nonzero()[:, 0]
            rois = rois_of_batch[rows]
            pooled[rows] = self.align(features[name], rois, self.side, scale, self.sampling_ratio, self.aligned)
        return pooled


def in_batch(boxes: list[Tensor]) -> Tensor:
    """Return the boxes of all images, each [P, 4] xyxy, as RoIs [sum P, 5]: index of the image, then the box."""
    index_of = torch.cat([found.new_full((len(found), 1), index) for index, found in enumerate(boxes)])
    return torch.cat([index_of, torch.cat(boxes)], 1)


def of_torchvision(pool: MultiScaleRoIAlign) -> LevelPool:
    """Return the equivalent of torchvision's pool, which must have been called: it sets its scales then."""
    # featmap_names has four levels, also for a backbone with fewer.
    scales = dict(zip(pool.featmap_names, cast(list[float], pool.scales), strict=False))
    (side,) = set(pool.output_size)
    return LevelPool(side, scales, cast(Callable[[list[Tensor]], Tensor], pool.map_levels), False, pool.sampling_ratio)


def roi_align_cpu(level: Tensor, rois: Tensor, side: int, scale: float, sampling_ratio: int, aligned: bool) -> Tensor:
    """Compute torchvision's `roi_align` on a CPU, without gradients; fastest if `level` is channels-last.

    `level` float32 [N, C, h, w]. `rois` [R, 5]: index in the batch, then xyxy in pixels of the image. `sampling_ratio`
    is the number of points along each side of a cell, 1 or more. Returns float32 [R, C, side, side], channels-last.
    """
    count, channels, height, width = level.shape
    corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    left, top, right, bottom = corners.unbind(1)
    if not aligned:
        right, bottom = left + (right - left).clamp(min=1), top + (bottom - top).clamp(min=1)
    columns, across = _taps(left, right, width, side, sampling_ratio)
    lines, down = _taps(top, bottom, height, side, sampling_ratio)
    index = rois[:, 0].to(torch.int32)
    first = index[:, None, None] * (height * width)
    places = (first + lines * width)[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :]
    taps = (2 * sampling_ratio) ** 2
    table = level.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    sums = F.embedding_bag(places.view(-1, taps), table, mode="sum", per_sample_weights=weights.view(-1, taps))
    return sums.view(len(rois), side, side, channels).permute(0, 3, 1, 2)


def _taps(low: Tensor, high: Tensor, size: int, side: int, sampling_ratio: int) -> tuple[Tensor, Tensor]:
    """Return, along one axis, indices int32 [R, side, 2 sampling_ratio] and weights for `side` cells of low..high.

    Each point is interpolated between two cells; a point more than a cell outside the map counts as zero.
    """
    points = side * sampling_ratio
    at = low[:, None] + (torch.arange(points, dtype=low.dtype) + 0.5) * ((high - low) / points)[:, None]
    inside = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    before = at.floor()
    after = (before + 1).clamp(max=size - 1)
    part = at - before
    places = torch.stack([before, after], 2).to(torch.int32)
    weights = torch.stack([1 - part, part], 2) * (inside / sampling_ratio)[:, :, None]
    return places.view(-1, side, 2 * sampling_ratio), weights.view(-1, side, 2 * sampling_ratio)
