"""The description of one layer: what an operation of a network does to its input."""

from dataclasses import dataclass

Pair = tuple[int, int]
Edges = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layer:
    """One operation of a network for one input. All pairs are (vertical, horizontal); sizes leave out the batch.

    `input`, `output` and `observed` are [C, H, W], or [features] after the spatial dimensions are gone; `output` is
    computed by formula, `observed` is the size of the actual tensor. `padding` is (top, bottom, left, right), and
    includes padding by a separate operation.

    `receptive_field` is the size of what one cell sees, in pixels of the input; `field_stride` is the distance between
    the fields of neighbours; `field_centre` is the centre of the first cell's field, where 0 is the input's edge and
    0.5 the middle of its first pixel. All three ignore that the input is finite. They are None if cells do not see
    windows at even distances: after RoIAlign, or after statistics of the whole map.

    `call` counts the calls of a module that is called several times; its `parameters` are counted at the first call.
    `multiply_adds` are those of convolutions and matrix products, for one of `times` regions (1: once per image).
    `activation` is the one that follows, directly or after a normalisation or an addition; `dropout` is the
    probability.
    """

    name: str
    call: int
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    observed: tuple[int, ...]
    times: int = 1
    kernel: Pair | None = None
    stride: Pair | None = None
    padding: Edges | None = None
    dilation: Pair | None = None
    groups: int | None = None
    output_padding: Pair | None = None
    activation: str | None = None
    dropout: float | None = None
    receptive_field: Pair | None = None
    field_stride: tuple[float, float] | None = None
    field_centre: tuple[float, float] | None = None
    parameters: int = 0
    multiply_adds: int = 0
