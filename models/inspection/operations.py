"""Describes each of PyTorch's operations (ATen, by name) as a layer, and what is known about its output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from foursight.models.inspection.geometry import Field, Window
from foursight.models.inspection.layer import Edges, Pair
from foursight.models.inspection.trace import (
    Trace,
    join,
    through_adaptive_pooling,
    through_global_pooling,
    through_resize,
    through_windows,
)


@dataclass(frozen=True)
class Call:
    """One operation: `inputs` are the tensors among `args` that were computed from the network's input, with `traces`.

    `module` is the module that ran it; `is_pointwise`: it treats every cell separately.
    """

    name: str
    args: Sequence[Any]
    inputs: list[Tensor]
    traces: list[Trace]
    output: Tensor
    module: nn.Module
    is_pointwise: bool


@dataclass(frozen=True)
class Outcome:
    """The trace of an operation's output, and the values of a `Layer` if the operation is one.

    `can_be_activated`: a following activation belongs to this layer, not to the one before. `activates` is the index of
    the layer that this activation belongs to.
    """

    trace: Trace
    layer: dict[str, Any] | None = None
    can_be_activated: bool = True
    activates: int | None = None


def takes_padding(name: str) -> bool:
    """Whether an operation uses, or adds to, padding that was added by an operation before it."""
    return name in ("convolution", "max_pool2d_with_indices", "avg_pool2d", "constant_pad_nd")


def describe(call: Call) -> Outcome:
    """Describe an operation on at least one traced tensor."""
    handler = _HANDLERS.get(call.name)
    if handler is not None:
        return handler(call)
    if call.name in _ACTIVATIONS:
        return _activate(call)
    return Outcome(_pointwise(call) if call.is_pointwise else _reshape(call))


def describe_untraced(call: Call) -> Outcome | None:
    """Describe a convolution or matrix product of tensors that do not depend on the input; None for others."""
    handler = _HANDLERS.get(call.name)
    if handler is None or handler not in (_convolve, _multiply):
        return None
    return handler(replace(call, traces=[Trace()]))


def _convolve(call: Call) -> Outcome:
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = call.args[:9]
    trace = call.traces[0]
    stride, padding, dilation, extra = (_pair(value) for value in (stride, padding, dilation, output_padding))
    kernel = _pair(weight.shape[2:])
    edges = _edges(padding, trace.padding)
    windows = _windows(kernel, stride, edges, dilation)
    size = _unpadded(x, trace.padding)
    if transposed:
        channels = weight.shape[1] * groups
        sides = [w.transposed_output(n, e) for w, n, e in zip(windows, size[1:], extra, strict=True)]
        fields = through_windows(trace.fields, windows, Field.spread)
        kind = "transposed convolution"
    else:
        channels = weight.shape[0]
        sides = [w.output(n) for w, n in zip(windows, size[1:], strict=True)]
        fields = through_windows(trace.fields, windows, Field.slide)
        kind = "convolution" if groups == 1 else "grouped convolution"
        if groups == size[0] > 1:
            kind = "depthwise convolution"
    layer = {
        "kind": kind, "input": size, "output": (channels, *sides), "observed": _size(call.output),
        "kernel": kernel, "stride": stride, "padding": edges, "dilation": dilation, "groups": groups,
        "output_padding": extra if transposed else None,
        "multiply_adds": weight.numel() * (x if transposed else call.output)[0, 0].numel(),
    }  # fmt: skip
    return Outcome(Trace(fields, trace.pooled), layer)


def _pool(call: Call) -> Outcome:
    trace = call.traces[0]
    is_maximum = call.name.startswith("max")
    values = [*call.args[1:], *[None] * 6]
    kernel = _pair(values[0])
    stride, padding = _pair(values[1] or kernel), _pair(values[2] or 0)
    dilation, ceil = (_pair(values[3] or 1), bool(values[4])) if is_maximum else ((1, 1), bool(values[3]))
    # For a maximum, padding by a separate operation is zeros and not minus infinity; the geometry is the same.
    edges = _edges(padding, trace.padding)
    windows = _windows(kernel, stride, edges, dilation)
    size = _unpadded(call.args[0], trace.padding)
    sides = [w.output(n, ceil=ceil) for w, n in zip(windows, size[1:], strict=True)]
    layer = {
        "kind": "max pooling" if is_maximum else "L2 pooling" if trace.squared else "average pooling",
        "input": size, "output": (size[0], *sides), "observed": _size(call.output),
        "kernel": kernel, "stride": stride, "padding": edges, "dilation": dilation,
    }  # fmt: skip
    return Outcome(Trace(through_windows(trace.fields, windows, Field.slide)), layer)


def _pool_adaptively(call: Call) -> Outcome:
    (channels, *before), after = _size(call.args[0]), _pair(call.args[1])
    if after == (1, 1):
        return _pool_globally(call)
    kind = "adaptive max pooling" if "max" in call.name else "adaptive average pooling"
    output = (channels, *after)
    layer = {"kind": kind, "input": (channels, *before), "output": output, "observed": _size(call.output)}
    return Outcome(Trace(through_adaptive_pooling(call.traces[0].fields, (before[0], before[1]), after)), layer)


def _pool_globally(call: Call) -> Outcome:
    """Describe a reduction: over the last two axes it is global pooling; after any other, nothing is known."""
    x, trace, name = call.args[0], call.traces[0], call.name
    position = 2 if name == "linalg_vector_norm" else 1
    axes = call.args[position] if len(call.args) > position else ()
    if "adaptive" not in name and (x.dim() != 4 or sorted(axis % 4 for axis in axes or ()) != [2, 3]):
        return Outcome(Trace())
    size, observed = _size(x), _size(call.output)
    power = call.args[1] if name == "linalg_vector_norm" and len(call.args) > 1 else None
    kind = "max" if "max" in name else "L2" if trace.squared or power == 2 else "average"
    layer = {
        "kind": f"global {kind} pooling",
        "input": size, "output": (size[0], 1, 1)[: len(observed)], "observed": observed,
        "kernel": (size[1], size[2]), "stride": (1, 1), "padding": (0, 0, 0, 0),
    }  # fmt: skip
    return Outcome(Trace(through_global_pooling(trace.fields, (size[1], size[2])), pooled=True), layer)


def _multiply(call: Call) -> Outcome:
    """Describe a matrix product: a linear layer if a module holds the matrix, else one of two computed tensors."""
    left, right = call.args[-2:] if call.name in ("addmm", "baddbmm") else call.args[:2]
    layer = {
        "kind": "linear" if isinstance(call.module, nn.Linear) else "matrix product",
        "input": (left.shape[-1],), "output": (right.shape[-1],), "observed": (call.output.shape[-1],),
        "multiply_adds": left.numel() * right.shape[-1],
    }  # fmt: skip
    return Outcome(call.traces[0] if call.traces[0].pooled and len(call.traces) == 1 else Trace(), layer)


def _normalise(call: Call) -> Outcome:
    size, trace = _size(call.args[0]), call.traces[0]
    is_batch = "batch" in call.name
    kind = "batch norm" if is_batch else "group norm" if "group" in call.name else "layer norm"
    layer = {"kind": kind, "input": size, "output": size, "observed": _size(call.output)}
    # In eval mode batch statistics are constants; those of a group are taken over the whole map.
    return Outcome(trace if is_batch else Trace(layer=trace.layer), layer, can_be_activated=False)


def _activate(call: Call) -> Outcome:
    name, trace, size = _ACTIVATIONS[call.name], call.traces[0], _size(call.args[0])
    if call.name == "hardtanh" and list(call.args[1:3]) == [0, 6]:
        name = "ReLU6"
    observed = _size(call.output)
    layer = {"kind": "activation", "input": size, "output": size, "observed": observed, "activation": name}
    after = replace(trace, squared=False, layer=None)
    return Outcome(after, layer, can_be_activated=False, activates=trace.layer)


def _add(call: Call) -> Outcome:
    trace = _pointwise(call)
    if len(call.inputs) < 2 or call.output.dim() != 4:
        return Outcome(trace)
    sides = zip(*(tensor.shape[1:] for tensor in call.inputs), strict=True)
    size, output = _size(call.output), tuple(max(side) for side in sides)
    return Outcome(trace, {"kind": "addition", "input": _size(call.args[0]), "output": output, "observed": size})


def _pad(call: Call) -> Outcome:
    trace = call.traces[0]
    if call.output.dim() != 4 or len(call.args[1]) > 4 or trace.fields is None:
        return Outcome(Trace())
    left, right, top, bottom = (*call.args[1], 0, 0)[:4]
    before = trace.padding
    padding = (before[0] + top, before[1] + bottom, before[2] + left, before[3] + right)
    # The fields stay those of the map without padding: the next window accounts for both together.
    return Outcome(replace(trace, padding=padding, layer=None))


def _upsample(call: Call) -> Outcome:
    (channels, *before), (height, width) = _size(call.args[0]), call.args[1]
    bilinear = "bilinear" in call.name
    # With aligned corners, neighbours see windows at uneven distances.
    is_even = "cubic" not in call.name and not (bilinear and call.args[2])
    fields = call.traces[0].fields if is_even else None
    fields = through_resize(fields, (before[0], before[1]), (height, width), bilinear=bilinear)
    layer = {
        "kind": f"{call.name.removeprefix('upsample_').removesuffix('2d')} upsampling",
        "input": (channels, *before), "output": (channels, height, width), "observed": _size(call.output),
    }  # fmt: skip
    return Outcome(Trace(fields), layer)


def _align(call: Call) -> Outcome:
    size = _size(call.args[0])
    output = (size[0], call.args[3], call.args[4])
    return Outcome(Trace(), {"kind": "RoIAlign", "input": size, "output": output, "observed": _size(call.output)})


def _concatenate(call: Call) -> Outcome:
    axis = (call.args[1] if len(call.args) > 1 else 0) % call.output.dim()
    is_over_channels = axis == 1 and call.output.dim() == 4 and len(call.traces) == len(call.args[0])
    return Outcome(join(call.traces) if is_over_channels else Trace())


def _pointwise(call: Call) -> Trace:
    name, args = call.name, call.args
    squared = name == "square" or (name == "pow" and args[1] == 2) or (name == "mul" and args[0] is args[1])
    return replace(join(call.traces), squared=squared)


def _reshape(call: Call) -> Trace:
    """Return the trace after any other operation: unchanged if it copies or views one tensor, else unknown."""
    trace, before, after = call.traces[0], call.args[0], call.output
    if len(call.traces) == 1 and call.name in _COPIES:
        return trace
    if len(call.traces) == 1 and call.name in _VIEWS and isinstance(before, Tensor):
        if trace.pooled or (after.dim() >= 2 and before.dim() >= 2 and after.shape[-2:] == before.shape[-2:]):
            return trace
        # A linear layer over the last axis can still be activated.
        return Trace(layer=trace.layer)
    return Trace()


def _windows(kernel: Pair, stride: Pair, edges: Edges, dilation: Pair) -> tuple[Window, Window]:
    return (
        Window(kernel[0], stride[0], edges[0], edges[1], dilation[0]),
        Window(kernel[1], stride[1], edges[2], edges[3], dilation[1]),
    )


def _edges(own: Pair, before: Edges) -> Edges:
    return own[0] + before[0], own[0] + before[1], own[1] + before[2], own[1] + before[3]


def _unpadded(x: Tensor, padding: Edges) -> tuple[int, int, int]:
    return x.shape[1], x.shape[2] - padding[0] - padding[1], x.shape[3] - padding[2] - padding[3]


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return value, value
    values = list(value)
    return values[0], values[-1]


def _size(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape[1:])


_ACTIVATIONS = {
    "relu": "ReLU",
    "hardtanh": "hardtanh",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "hard swish",
    "hardsigmoid": "hard sigmoid",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
_COPIES = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh"}
_VIEWS = {"view", "_unsafe_view", "reshape", "permute", "transpose", "t", "squeeze", "unsqueeze", "expand", "flatten"}
_HANDLERS: dict[str, Callable[[Call], Outcome]] = {
    "convolution": _convolve,
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _pool_adaptively),
    **dict.fromkeys(("mean", "amax", "linalg_vector_norm"), _pool_globally),
    **dict.fromkeys(("addmm", "baddbmm", "mm", "bmm"), _multiply),
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), _normalise),
    **dict.fromkeys(("native_group_norm", "native_layer_norm"), _normalise),
    "add": _add,
    "constant_pad_nd": _pad,
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"), _upsample),
    "roi_align": _align,
    "cat": _concatenate,
}
