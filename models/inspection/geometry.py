"""The geometry of a convolution: output sizes, padding, and receptive fields, along one axis at a time.

Output sizes: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning"
(https://arxiv.org/abs/1603.07285). Receptive fields: Araujo, Norris and Sim 2019, "Computing Receptive Fields of
Convolutional Neural Networks" (https://distill.pub/2019/computing-receptive-fields/). Pooling is a convolution here: a
window that slides.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis, in cells: `before` and `after` are the padding at the two ends."""

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def reach(self) -> int:
        """From the window's first to its last cell: D (K - 1) + 1."""
        return self.dilation * (self.kernel - 1) + 1

    def output(self, size: int, *, ceil: bool = False) -> int:
        """O = floor((W - K + P) / S) + 1, with the dilated kernel as K and both ends' padding as P; 0 where none fits.

        With `ceil`, a pooling's ceil_mode: a window that hangs over the end counts too, unless it lies in the padding
        altogether.
        """
        room = size + self.before + self.after - self.reach
        if room < 0 and not ceil:
            return 0
        if not ceil:
            return room // self.stride + 1
        count = max(-(-room // self.stride) + 1, 0)
        return count - 1 if count and (count - 1) * self.stride >= size + self.before else count

    def left_over(self, size: int) -> int:
        """How many cells at the end, padding included, no window reaches."""
        return (size + self.before + self.after - self.reach) % self.stride

    def transposed_output(self, size: int, extra: int = 0) -> int:
        """O = (W - 1) S - P + D (K - 1) + 1 + extra: the size that this window would map to `size`.

        `extra`, PyTorch's output_padding, chooses among the S sizes that do.
        """
        return (size - 1) * self.stride - self.before - self.after + self.reach + extra


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's "same" padding, (before, after): the output has ceil(size / stride) cells.

    Where the sum is odd, the larger part comes after.
    """
    reach = dilation * (kernel - 1) + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class WindowAnswer:
    """What one window does to `size` cells along an axis.

    `output` is 0 where the window does not fit. `left_over` cells at the end, `left_over_input` of them cells of the
    input and no padding, are seen by no window. `same` is the padding (before, after) that gives ceil(size / stride)
    cells, of a transposed convolution size * stride cells; None where no padding does.
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
    """The arithmetic of one convolution along one axis. Raises ValueError for a number that none can have."""
    for name, value in {"W": size, "K": window.kernel, "S": window.stride, "dilation": window.dilation}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; it has to be 1 or more")
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
    """What each cell along one axis of a map sees of the input: a span of pixels that need not lie inside it.

    Cell i sees pixels low[i] to high[i] (inclusive) for i < n = len(low), and cell i + n sees the same `step` pixels
    further on. In a plain chain of convolutions n is 1; after an upsampling neighbours see spans of unlike lengths.
    """

    low: tuple[int, ...] = (0,)
    high: tuple[int, ...] = (0,)
    step: int = 1

    @property
    def size(self) -> int:
        """The longest span, in pixels."""
        return max(high - low + 1 for low, high in zip(self.low, self.high, strict=True))

    @property
    def stride(self) -> Fraction:
        """The distance in pixels between neighbours' spans (Araujo et al.: the effective stride), on average."""
        return Fraction(self.step, len(self.low))

    @property
    def centre(self) -> float:
        """Of the first cell's span, in pixels from the input's edge: the middle of its first pixel is 0.5."""
        return (self.low[0] + self.high[0] + 1) / 2

    def at(self, cell: int) -> tuple[int, int]:
        """The first and last pixel that a cell sees; the cell may lie in the padding."""
        turn, phase = divmod(cell, len(self.low))
        return self.low[phase] + turn * self.step, self.high[phase] + turn * self.step

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The first and last pixel that any cell from `first` to `last` sees."""
        seen = [self.at(cell) for cell in range(first, last + 1)]
        return min(low for low, _ in seen), max(high for _, high in seen)

    def slide(self, window: Window) -> "Field":
        """The field after a convolution or a pooling: the union of what its window covers."""
        period = len(self.low) // math.gcd(len(self.low), window.stride)
        first = [cell * window.stride - window.before for cell in range(period)]
        return self._gather(period, period * window.stride, [(cell, cell + window.reach - 1) for cell in first])

    def spread(self, window: Window) -> "Field | None":
        """The field after a transposed convolution; None where some cells see nothing (stride beyond the kernel)."""
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
        """The field after a map of `before` cells is resized to `after`; `taps` gives the first and last cell read."""
        ratio = Fraction(before, after)
        turns = len(self.low) // math.gcd(len(self.low), ratio.numerator)
        period = ratio.denominator * turns
        return self._gather(period, ratio.numerator * turns, [taps(cell) for cell in range(period)])

    def shift(self, before: int) -> "Field":
        """The field after `before` cells of padding were put in front."""
        return self._gather(len(self.low), len(self.low), [(cell - before,) * 2 for cell in range(len(self.low))])

    def join(self, other: "Field") -> "Field | None":
        """The field of a sum or a concatenation: what either sees; None where the strides differ."""
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
        """A field of so many cells a turn, each the union of `cells`; a turn advances by so many cells of this one."""
        spans = [self.span(first, last) for first, last in cells]
        step = int(self.stride * advance)
        return Field(tuple(low for low, _ in spans), tuple(high for _, high in spans), step)
