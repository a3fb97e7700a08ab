"""The pyramid's finest map, whose last convolution is computed where boxes lie and nowhere else.

That convolution is as much work as the rest of the pyramid, and a quarter of all that a photo costs. Where no proposals
are made from the map, it is read inside boxes only: those small enough for it touch .25 to .57 of it. What they touch is
computed in tiles of 4 x 4 by F(4 x 4, 3 x 3) of Winograd's minimal filtering (Lavin & Gray 2016, section 4): 36
multiplications for the 144 of the sum as it is written.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from foursight.models import engine

SIDE = 4
# A tile with the ring around it that a 3 x 3 convolution looks at.
SEEN = SIDE + 2
# So many at a time: what passes between the steps stays in the processor's cache.
TILES = 256
# Lavin & Gray 2016, section 4.3, from points 0, 1, -1, 2, -2 and infinity: of data, of filters, of the answer.
DATA = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1))  # fmt: skip
FILTER = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
          (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
ANSWER = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class Tiles(nn.Module):
    """A convolution of 3 x 3, stride 1, over tiles."""

    filters: Tensor
    data: Tensor
    answer: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        weight, g = convolution.weight.detach().double(), torch.tensor(FILTER, dtype=torch.float64)
        filters = torch.einsum("ai,kcij,bj->abck", g, weight, g).flatten(0, 1)
        self.register_buffer("filters", filters.float().contiguous())
        # Both axes at once.
        for name, rows in (("data", DATA), ("answer", ANSWER)):
            matrix = torch.tensor(rows, dtype=torch.float32)
            self.register_buffer(name, torch.kron(matrix, matrix).contiguous())
        self.register_buffer("bias", cast(Tensor, convolution.bias).detach().float())

    def forward(self, cells: Tensor) -> Tensor:
        """Map float [36 T, C], cell by cell of T tiles with their rings, to float [16 T, K], cell by cell of tiles."""
        _, channels, found = self.filters.shape
        data = torch.matmul(self.data, cells.view(SEEN**2, -1)).view(SEEN**2, -1, channels)
        products = torch.bmm(data, self.filters)
        return torch.matmul(self.answer, products.view(SEEN**2, -1)).view(-1, found) + self.bias


class Smoothed:
    """The maps of a batch of photos, [N, C, h, w]; a place has its value once `around` was asked for it."""

    def __init__(self, raw: Tensor, convolve: engine.Engine) -> None:
        self.shape = count, channels, height, width = raw.shape
        self._raw = raw.permute(0, 2, 3, 1).reshape(-1, channels)
        self._cells = torch.empty_like(self._raw)
        self._convolve = convolve
        self._wanted = torch.zeros(count, -(-height // SIDE), -(-width // SIDE), dtype=torch.bool)
        self._there = torch.zeros_like(self._wanted)

    def around(self, photo: Tensor, lines: Tensor, columns: Tensor) -> Tensor:
        """The maps, [N, C, h, w], which are whole where each RoI's lines and columns cross.

        `photo` int [R], `lines` int [R, A] and `columns` int [R, B], all inside the map.
        """
        self._wanted[photo[:, None, None], lines[:, :, None] // SIDE, columns[:, None, :] // SIDE] = True
        for tiles in (self._wanted & ~self._there).nonzero().split(TILES):
            self._smooth(*tiles.unbind(1))
        self._there |= self._wanted
        count, channels, height, width = self.shape
        return self._cells.view(count, height, width, channels).permute(0, 3, 1, 2)

    def _smooth(self, photo: Tensor, line: Tensor, column: Tensor) -> None:
        _, _, height, width = self.shape
        around = torch.arange(-1, SEEN - 1)[:, None]
        lines, columns = SIDE * line + around, SIDE * column + around
        first = photo * height
        # Cell by cell of the tile: [6, 6, T]. What lies outside of the map is zero, as the convolution pads.
        seen = (first + lines.clamp(0, height - 1))[:, None] * width + columns.clamp(0, width - 1)
        outside = ((lines < 0) | (lines >= height))[:, None] | (columns < 0) | (columns >= width)
        cells = self._raw.index_select(0, seen.view(-1))
        cells.index_fill_(0, outside.view(-1).nonzero()[:, 0], 0)
        (found,) = self._convolve(cells)
        # A map's last tiles may stand out of it.
        own = ~outside[1:-1, 1:-1].reshape(-1)
        places = ((first + lines)[1:-1, None] * width + columns[1:-1]).view(-1)
        if not own.all():
            found, places = found[own], places[own]
        self._cells.index_copy_(0, places, found)


class SmoothedLater(nn.Module):
    """A backbone whose map "0" is left for `Smoothed`."""

    def __init__(self, backbone: nn.Module, convolve: engine.Engine) -> None:
        super().__init__()
        self.backbone = backbone
        self._convolve = convolve

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """As the backbone, with `Smoothed` for "0"."""
        maps: dict[str, Any] = self.backbone(pixels)
        return maps | {"0": Smoothed(maps["0"], self._convolve)}


def tiles_of(block: nn.Sequential) -> Tiles:
    """The same convolution as a pyramid's last block, whose batch normalisation becomes a part of it."""
    convolution, norm = block
    return Tiles(fuse_conv_bn_eval(convolution, norm)).eval()


def compile(tiles: Tiles, device: torch.device) -> engine.Engine:
    """The tiles on their engine."""
    noise = torch.Generator().manual_seed(0)
    channels = tiles.filters.shape[1]
    first, second = (torch.randn(count * SEEN**2, channels, generator=noise) for count in (5, 7))
    return engine.compile(tiles, (first,), (second,), device)
