"""The pyramid's finest map, which is made where boxes lie and nowhere else.

Its last convolution alone is as much work as the rest of the pyramid, and a quarter of all that a photo costs. Where no
proposals are made from the map, it is read inside boxes only: those small enough for it touch .25 to .57 of it. What
they touch is computed in tiles of 4 x 4 by F(4 x 4, 3 x 3) of Winograd's minimal filtering (Lavin & Gray 2016, section
4): 36 multiplications for the 144 of the sum as it is written.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Computes `WinogradTiles.forward`, in a list.
Convolve = Callable[[Tensor, Tensor], list[Tensor]]
# Of a tile, of the tile with the ring that a 3 x 3 convolution looks at, and of that on the map one level up. The sides
# of a photo's map are multiples of the first.
SIDE, SEEN, ABOVE = 4, 6, 4
# So many tiles at a time: what passes between the steps stays in the processor's cache. Their number is made a multiple
# of the second: for one that is new to it, the engine takes 3 ms more.
TILES, MULTIPLE = 256, 32
# Lavin & Gray 2016, section 4.3, from points 0, 1, -1, 2, -2 and infinity: of data, of filters, of the answer.
DATA = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1))  # fmt: skip
FILTER = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
          (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
ANSWER = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
# Nearest upsampling by two: where the cells of a tile and its ring are from.
UPSAMPLE = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 0), (0, 0, 0, 1))


class WinogradTiles(nn.Module):
    """How a pyramid makes its finest map, over tiles: a lateral 1 x 1 convolution, the sum, the last 3 x 3 convolution.

    Only the products are made in between: what is linear before them is a part of their filters, or done to the cells
    of the map that they come from.
    """

    of_fine: Tensor
    of_above: Tensor
    fine_data: Tensor
    above_data: Tensor
    answer: Tensor

    def __init__(self, lateral: nn.Sequential, last: nn.Sequential) -> None:
        """Take blocks of torchvision's FeaturePyramidNetwork, a convolution and its batch normalisation each."""
        super().__init__()
        pointwise, convolution = fuse_conv_bn_eval(*lateral), fuse_conv_bn_eval(*last)
        g, weight = _double(FILTER), convolution.weight.detach().double()
        of_above = torch.einsum("ai,kcij,bj->abck", g, weight, g).flatten(0, 1)
        rows = torch.cat([pointwise.weight.detach().flatten(1).T, pointwise.bias.detach()[None]]).double()
        data, answer = _double(DATA), _double(ANSWER)
        matrices = {
            "of_fine": rows @ of_above,
            "of_above": of_above,
            # Both axes at once.
            "fine_data": torch.kron(data, data),
            "above_data": torch.kron(data @ _double(UPSAMPLE), data @ _double(UPSAMPLE)),
            "answer": torch.kron(answer, answer),
        }
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix.float().contiguous())
        self.bias = convolution.bias

    def forward(self, fine: Tensor, above: Tensor) -> Tensor:
        """Map what T tiles see, cell by cell, to the tiles, cell by cell, float [16 T, K].

        `fine` float [36 T, B + 1] is the backbone's map, and 1; `above` float [16 T, C] the pyramid's map one level up.
        Outside of the photo all are zero, as the convolution pads.
        """
        products = torch.bmm(self._transformed(self.fine_data, fine), self.of_fine)
        products = products + torch.bmm(self._transformed(self.above_data, above), self.of_above)
        answer: Tensor = torch.matmul(self.answer, products.view(SEEN**2, -1)).view(-1, len(self.bias)) + self.bias
        return answer

    def _transformed(self, matrix: Tensor, cells: Tensor) -> Tensor:
        return torch.matmul(matrix, cells.view(matrix.shape[1], -1)).view(SEEN**2, -1, cells.shape[1])


class LazyLevel:
    """The finest maps of a batch of photos, [N, C, h, w]; a place has its value once `around` was asked for it.

    `fine` [N, B, h, w] and `above` [N, C, h / 2, w / 2] are the maps that `WinogradTiles` looks at.
    """

    def __init__(self, fine: Tensor, above: Tensor, convolve: Convolve) -> None:
        count, _, height, width = fine.shape
        self.shape = (count, above.shape[1], height, width)
        self._fine, self._above = _rows(fine), _rows(above)
        self._made = self._above.new_empty(len(self._fine), above.shape[1])
        self._convolve = convolve
        self._asked = torch.zeros(count, height // SIDE, width // SIDE, dtype=torch.bool)

    def around(self, photo: Tensor, lines: Tensor, columns: Tensor) -> Tensor:
        """The maps, [N, C, h, w], which are whole where each RoI's lines and columns cross.

        `photo` int [R], `lines` int [R, A] and `columns` int [R, B], all inside the map.
        """
        there = self._asked.clone()
        self._asked[photo[:, None, None], lines[:, :, None] // SIDE, columns[:, None, :] // SIDE] = True
        missing = (self._asked & ~there).nonzero()
        missing = torch.cat([missing, missing[-1:].expand(-len(missing) % MULTIPLE, -1)])
        for tiles in torch.split(missing, TILES) if len(missing) else ():
            self._smooth(*tiles.unbind(1))
        count, channels, height, width = self.shape
        return self._made.view(count, height, width, channels).permute(0, 3, 1, 2)

    def _smooth(self, photo: Tensor, line: Tensor, column: Tensor) -> None:
        _, _, height, width = self.shape
        fine, seen = _cells(photo, SIDE * line - 1, SIDE * column - 1, SEEN, height, width)
        above, seen_above = _cells(
            photo, ABOVE // 2 * line - 1, ABOVE // 2 * column - 1, ABOVE, height // 2, width // 2
        )
        ones = seen.view(-1, 1).float()
        (found,) = self._convolve(
            torch.cat([self._fine.index_select(0, fine.view(-1)) * ones, ones], 1),
            self._above.index_select(0, above.view(-1)) * seen_above.view(-1, 1),
        )
        self._made.index_copy_(0, fine[1:-1, 1:-1].reshape(-1), found)


class LazyPyramid(nn.Module):
    """A pyramid that leaves its map "0" for `LazyLevel`: `coarse` gives "fine" and "above" in the place of it."""

    def __init__(self, coarse: nn.Module, convolve: Convolve) -> None:
        super().__init__()
        self.coarse = coarse
        self._convolve = convolve

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        """The maps by name."""
        maps: dict[str, Any] = self.coarse(pixels)
        maps["0"] = LazyLevel(maps.pop("fine"), maps.pop("above"), self._convolve)
        return maps


def _cells(photo: Tensor, top: Tensor, left: Tensor, side: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the cells of T squares are among those of maps, int [side, side, T], and whether they are inside, bool."""
    steps = torch.arange(side)[:, None]
    lines, columns = (top + steps)[:, None], left + steps
    inside = (lines >= 0) & (lines < height) & (columns >= 0) & (columns < width)
    return (photo * height + lines.clamp(0, height - 1)) * width + columns.clamp(0, width - 1), inside


def _double(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _rows(maps: Tensor) -> Tensor:
    """Maps [N, C, h, w], channels-last in memory, as rows of channels [N h w, C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
