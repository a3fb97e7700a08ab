"""Geometry of convolutions along one axis: output sizes, padding, and receptive fields.

Output sizes: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning"
(https://arxiv.org/abs/1603.07285). Receptive fields: Araujo, Norris and Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks" (https://distill.pub/2019/computing-receptive-fields/). Pooling counts as a convolution:
both slide a window.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis, in cells. `before` and `after` are the padding at the two ends."""

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Number of cells from the window's first to its last: D (K - 1) + 1."""
        return self.dilation * (self.kernel - 1) + 1

    def output(self, size: int, *, ceil: bool = False) -> int:
        """O = floor((W - K + P) / S) + 1, with the dilated kernel as K and both ends' padding as P; 0 if none fits.

        `ceil` is PyTorch's ceil_mode of pooling: a window that extends beyond the end counts too, unless it starts in
        the padding.
        """
        room = size + self.before + self.after - self.reach
        if room < 0 and not ceil:
            return 0
        if not ceil:
            return room // self.stride + 1
        count = max(-(-room // self.stride) + 1, 0)
        return count - 1 if count and (count - 1) * self.stride >= size + self.before else count

    def left_over(self, size: int) -> int:
        """Number of cells at the end, padding included, that no window reaches."""
        return (size + self.before + self.after - self.reach) % self.stride

    def transposed_output(self, size: int, extra: int = 0) -> int:
        """O = (W - 1) S - P + D (K - 1) + 1 + extra: a size that this window maps to `size`.

        There are S such sizes; `extra` is PyTorch's output_padding, which chooses one.
        """
        return (size - 1) * self.stride - self.before - self.after + self.reach + extra


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return TensorFlow's "same" padding, (before, after), for an output of ceil(size / stride) cells.

    If the sum is odd, the larger part comes after.
    """
    reach = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class WindowAnswer:
    """The result of sliding a window over `size` cells.

    `output` is 0 if the window does not fit. No window covers the last `left_over` cells, of which `left_over_input`
    are input and not padding. `same` is the padding (before, after) for an output of ceil(size / stride) cells, or of
    size * stride cells for a transposed convolution; None if there is no such padding.
    """

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    transposed: bool
    output: int
    left_over: int
    left_over_input: int
    same: tuple[int, int] | None


def answer(size: int, window: Window, *, transposed: bool = False) -> WindowAnswer:
    """Compute one convolution's arithmetic along one axis. Raises ValueError for a size or window below 1."""
    for name, value in {"W": size, "K": window.kernel, "S": window.stride, "dilation": window.dilation}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be 1 or more")
    if transposed:
        output = max(window.transposed_output(size), 0)
        left_over = left_over_input = 0
        total = window.reach - window.stride
        same = (total // 2, total - total // 2) if total >= 0 else None
    else:
        output = window.output(size)
        left_over = window.left_over(size) if output else 0
        left_over_input = max(left_over - window.after, 0)
        same = same_padding(size, window.kernel, window.stride, window.dilation)
    return WindowAnswer(
        size, window.kernel, window.stride, window.before, window.after, window.dilation, transposed,
        output, left_over, left_over_input, same,
    )  # fmt: skip


@dataclass(frozen=True)
class Field:
    """Receptive fields along one axis of a map: the span of input pixels that each cell sees, possibly beyond the edge.

    Cell i sees pixels low[i] to high[i] (inclusive) for i < n = len(low), and cell i + n sees the same span moved by
    `step` pixels. In a plain chain of convolutions n is 1; after upsampling, neighbours see spans of different lengths.
    """

    low: tuple[int, ...] = (0,)
    high: tuple[int, ...] = (0,)
    step: int = 1

    @property
    def size(self) -> int:
        """Length of the longest span, in pixels."""
        return max(high - low + 1 for low, high in zip(self.low, self.high, strict=True))

    @property
    def stride(self) -> Fraction:
        """Mean distance between the spans of neighbours, in pixels (the effective stride of Araujo et al.)."""
        return Fraction(self.step, len(self.low))

    @property
    def centre(self) -> float:
        """Centre of the first cell's span, in pixels from the input's edge: the middle of the first pixel is 0.5."""
        return (self.low[0] + self.high[0] + 1) / 2

    def at(self, cell: int) -> tuple[int, int]:
        """Return the first and last pixel that a cell sees; the cell may be padding."""
        turn, phase = divmod(cell, len(self.low))
        return self.low[phase] + turn * self.step, self.high[phase] + turn * self.step

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return the first and last pixel that the cells from `first` to `last` see."""
        seen = [self.at(cell) for cell in range(first, last + 1)]
        return min(low for low, _ in seen), max(high for _, high in seen)

    def slide(self, window: Window) -> "Field":
        """Return the fields after a convolution or pooling: each is the union of the fields in its window."""
        period = len(self.low) // math.gcd(len(self.low), window.stride)
        first = [cell * window.stride - window.before for cell in range(period)]
        return self._gather(period, period * window.stride, [(cell, cell + window.reach - 1) for cell in first])

    def spread(self, window: Window) -> "Field | None":
        """Return the fields after a transposed convolution; None if some cells see nothing (stride above kernel)."""
        stride, reach = window.stride, window.reach
        period = stride * len(self.low)
        cells = []
        for cell in range(period):
            # Output o takes input i with o = i * stride - before + k, 0 <= k < reach.
            first, last = -(-(cell + window.before - reach + 1) // stride), (cell + window.before) // stride
            if first > last:
                return None
            cells.append((first, last))
        return self._gather(period, len(self.low), cells)

    def resample(self, before: int, after: int, taps: Callable[[int], tuple[int, int]]) -> "Field":
        """Return the fields after resizing `before` cells to `after`; a cell reads from `taps`'s first to its last."""
        ratio = Fraction(before, after)
        turns = len(self.low) // math.gcd(len(self.low), ratio.numerator)
        period = ratio.denominator * turns
        return self._gather(period, ratio.numerator * turns, [taps(cell) for cell in range(period)])

    def shift(self, before: int) -> "Field":
        """Return the fields after `before` cells of padding are added in front."""
        return self._gather(len(self.low), len(self.low), [(cell - before,) * 2 for cell in range(len(self.low))])

    def join(self, other: "Field") -> "Field | None":
        """Return the fields of a sum or concatenation: what either sees. None if the strides differ."""
        if self.stride != other.stride:
            return None
        period = math.lcm(len(self.low), len(other.low))
        pairs = [(self.at(cell), other.at(cell)) for cell in range(period)]
        return Field(
            tuple(min(one[0], two[0]) for one, two in pairs),
            tuple(max(one[1], two[1]) for one, two in pairs),
            int(self.stride * period),
        )

    def _gather(self, period: int, advance: int, cells: list[tuple[int, int]]) -> "Field":
        """Return fields with this period; each is the union of the fields of `cells`, a range of cells of this map.

        `advance` is the number of this map's cells in a period.
        """
        spans = [self.span(first, last) for first, last in cells]
        step = int(self.stride * advance)
        return Field(tuple(low for low, _ in spans), tuple(high for _, high in spans), step)
