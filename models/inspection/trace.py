"""What is known about a tensor that was computed from the input, and how operations change it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from foursight.models.inspection.geometry import Field, Window
from foursight.models.inspection.layer import Edges

Fields = tuple[Field, Field]


@dataclass(frozen=True)
class Trace:
    """Knowledge about a tensor.

    `fields` are the receptive fields along its last two axes (vertical, horizontal), or None if they are irregular.
    `pooled`: it has one cell, over the whole map. `padding` (top, bottom, left, right) was added by an operation but
    not used by a window yet; the fields ignore it. `layer` is the index of the layer that a following activation
    belongs to. `squared` marks the first step of L2 pooling.
    """

    fields: Fields | None = None
    pooled: bool = False
    padding: Edges = (0, 0, 0, 0)
    layer: int | None = None
    squared: bool = False


def settle(trace: Trace) -> Trace:
    """Make unused padding part of the map, for operations other than windows."""
    if trace.fields is None or not any(trace.padding):
        return trace
    y, x = trace.fields
    return replace(trace, fields=(y.shift(trace.padding[0]), x.shift(trace.padding[2])), padding=(0, 0, 0, 0))


def join(traces: list[Trace]) -> Trace:
    """Combine the traces of tensors that are added or concatenated."""
    first = traces[0]
    fields = first.fields
    for other in traces[1:]:
        if fields is None or other.fields is None or other.pooled != first.pooled:
            return Trace(pooled=first.pooled and other.pooled, layer=first.layer)
        y, x = (one.join(two) for one, two in zip(fields, other.fields, strict=True))
        fields = None if y is None or x is None else (y, x)
    return Trace(fields, first.pooled, layer=first.layer)


def through_windows(
    fields: Fields | None, windows: tuple[Window, Window], move: Callable[[Field, Window], Field | None]
) -> Fields | None:
    """Return the fields after a sliding window along each axis; `move` is Field.slide or Field.spread."""
    if fields is None:
        return None
    y, x = (move(one, window) for one, window in zip(fields, windows, strict=True))
    return None if y is None or x is None else (y, x)


def through_adaptive_pooling(fields: Fields | None, before: tuple[int, int], after: tuple[int, int]) -> Fields | None:
    """Return the fields after adaptive pooling, whose window i goes from floor(i W / O) to ceil((i + 1) W / O)."""
    if fields is None:
        return None
    y, x = (_adapt(*each) for each in zip(fields, before, after, strict=True))
    return y, x


def through_resize(
    fields: Fields | None, before: tuple[int, int], after: tuple[int, int], *, bilinear: bool
) -> Fields | None:
    """Return the fields after nearest or bilinear interpolation, corners not aligned."""
    if fields is None:
        return None
    y, x = (_resize(*each, bilinear) for each in zip(fields, before, after, strict=True))
    return y, x


def through_global_pooling(fields: Fields | None, size: tuple[int, int]) -> Fields | None:
    """Return the fields of the one cell that a map of `size` cells is reduced to."""
    if fields is None:
        return None
    spans = [axis.span(0, side - 1) for axis, side in zip(fields, size, strict=True)]
    y, x = (Field((low,), (high,), 0) for low, high in spans)
    return y, x


def _adapt(one: Field, before: int, after: int) -> Field:
    return one.resample(before, after, lambda cell: (cell * before // after, -(-(cell + 1) * before // after) - 1))


def _resize(one: Field, before: int, after: int, bilinear: bool) -> Field:
    def taps(cell: int) -> tuple[int, int]:
        if not bilinear:
            return (cell * before // after,) * 2
        # The source position (cell + 1/2) before / after - 1/2, in units of 1 / (2 after), lies between two cells.
        twice = (2 * cell + 1) * before - after
        first = twice // (2 * after)
        return first, first + (twice % (2 * after) > 0)

    return one.resample(before, after, taps)
