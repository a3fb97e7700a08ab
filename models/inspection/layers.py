"""What a network's layers do: their geometry by formula and as observed, receptive fields, parameters, multiply-adds.

The network runs once, in eval mode, on a blank input, and every operation that it performs is watched: so what is said
holds for functional code, for paths that part and meet, and for padding that depends on the input's size. Beside each
output size that the formula gives stands the one that was observed.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from foursight.models.inspection.geometry import Field, Window

Pair = tuple[int, int]
Edges = tuple[int, int, int, int]


@dataclass(frozen=True)
class Layer:
    """One operation of a network for one input. All pairs are (vertical, horizontal); sizes do not count the batch.

    `input`, `output` and `observed` are [C, H, W], or [features] once places are gone; `output` is by formula,
    `observed` is the size of the tensor that came out. `padding` is (top, bottom, left, right), padding by an operation
    of its own included.

    `receptive_field` is the size in pixels of the input of what one cell sees, `field_stride` the distance between
    neighbours' fields, and `field_centre` the centre of the first cell's, where 0 is the input's edge and 0.5 the
    middle of its first pixel. All ignore that the input ends somewhere. They are None where cells do not see windows at
    even distances: after a region was cut out, or after statistics of the whole map.

    `call` counts the uses of a module that serves several times; its `parameters` count at the first. `multiply_adds`
    are of convolutions and matrix products, for one of `times` regions (1: once for the photo). `activation` is the one
    that follows, be it after a normalisation or an addition; `dropout` is the probability.
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


@dataclass(frozen=True)
class Watched:
    """A part of a network that is run, and for how many regions its operations are repeated."""

    run: Callable[[], Any]
    times: int = 1


@dataclass(frozen=True)
class _Seen:
    """What is known of a tensor that came from the input.

    `fields` of its last two axes; `lone` where there is one cell, over the whole map; `padding` that no window has used
    yet, and that the fields know nothing of; `layer` the row that an activation belongs to; `squared` for L2 pooling.
    """

    fields: tuple[Field, Field] | None = None
    lone: bool = False
    padding: Edges = (0, 0, 0, 0)
    layer: int | None = None
    squared: bool = False


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a network: use `watching` as context, `start` at the input, and read `layers`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.times = 1
        self._network = network
        self._known: Any = WeakTensorKeyDictionary()
        self._modules: list[tuple[str, nn.Module]] = [("", network)]
        self._calls: dict[str, int] = {}
        self._counted: set[int] = set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what this thread runs."""
        with ExitStack() as stack:
            for name, module in self._network.named_modules():
                if module is not self._network:
                    stack.enter_context(_hook(module.register_forward_pre_hook(self._entering(name))))
                    stack.enter_context(_hook(module.register_forward_hook(self._leaving, always_call=True)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(_Dropouts(self._drop))
            stack.enter_context(self)
            yield

    def start(self, pixels: Tensor) -> None:
        """Each cell of this tensor [1, C, H, W] sees itself."""
        self._known[pixels] = _Seen((Field(), Field()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it was."""
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1].removesuffix("_")
        given = [self._known[tensor] for tensor in _tensors(args) if tensor in self._known]
        if name not in _WINDOWS:
            given = [_settled(seen) for seen in given]
        result = func(*args, **kwargs)
        output = result[0] if isinstance(result, tuple | list) and result else result
        # RoIAlign is asked at every level of a pyramid, and has an output where the region's level is.
        if not isinstance(output, Tensor) or not output.numel():
            return result
        handler = _HANDLERS.get(name)
        if not given:
            # What does not depend on the input restricts no field, but may cost something.
            if handler in (_convolve, _multiply):
                handler(self, name, args, [_Seen()], output)
            return result
        if handler is not None:
            seen = handler(self, name, args, given, output)
        elif name in _ACTIVATIONS:
            seen = self._activate(_activation(name, args), given[0], args[0], output)
        elif torch.Tag.pointwise in func.tags:
            seen = _pointwise(name, args, given, output)
        else:
            seen = _reshaped(name, given, args[0], output)
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self._known[tensor] = seen
        return result

    def add(self, seen: _Seen, *, folds: bool = False, **values: Any) -> _Seen:
        """Note a layer whose output is `seen`; gives the same, as the output of that layer.

        `folds`: a later activation belongs to the layer before, as that of a convolution with batch norm does.
        """
        name, module = self._modules[-1]
        parameters = 0
        if id(module) not in self._counted:
            self._counted.add(id(module))
            parameters = sum(p.numel() for p in module.parameters(recurse=False))
        fields: dict[str, Any] = {}
        if seen.fields is not None:
            y, x = seen.fields
            fields = {"receptive_field": (y.size, x.size), "field_centre": (y.centre, x.centre)}
            if not seen.lone:
                fields["field_stride"] = (float(y.stride), float(x.stride))
        self.layers.append(
            Layer(name, self._calls.get(name, 1), times=self.times, parameters=parameters, **fields, **values)
        )
        return seen if folds else replace(seen, layer=len(self.layers) - 1)

    def _activate(self, activation: str, seen: _Seen, before: Tensor, output: Tensor) -> _Seen:
        if seen.layer is not None and self.layers[seen.layer].activation is None:
            self.layers[seen.layer] = replace(self.layers[seen.layer], activation=activation)
        size = _size(output)
        after = replace(seen, squared=False)
        self.add(
            after, kind="activation", input=_size(before), output=_size(before), observed=size, activation=activation
        )
        return replace(after, layer=None)

    def _drop(self, tensor: Tensor, probability: float) -> None:
        if tensor in self._known:
            size = _size(tensor)
            self.add(
                self._known[tensor],
                folds=True,
                kind="dropout",
                input=size,
                output=size,
                observed=size,
                dropout=probability,
            )

    def _entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, _: Any) -> None:
            self._modules.append((name, module))
            self._calls[name] = self._calls.get(name, 0) + 1

        return enter

    def _leaving(self, *_: Any) -> None:
        self._modules.pop()


class _Dropouts(TorchFunctionMode):
    """Tells of dropout, which in eval mode is no operation at all."""

    def __init__(self, tell: Callable[[Tensor, float], None]) -> None:
        super().__init__()
        self._tell = tell

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DROPOUTS:
            self._tell(args[0], args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        return func(*args, **kwargs)


def record(network: nn.Module, size: Pair, parts: Callable[[nn.Module, Tensor], Iterator[Watched]]) -> list[Layer]:
    """The layers of a network for an input of `size` (height, width), in the order in which they run.

    `parts` gives what is to be run, given the network and a blank input float32 [1, 3, H, W] on its device. The network
    itself is left alone, and may be at work in other threads: a copy that shares its tensors is watched.
    """
    tensors = [*network.parameters(), *network.buffers()]
    watched = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
    pixels = torch.zeros(1, 3, *size, device=tensors[0].device)
    recorder = Recorder(watched)
    with recorder.watching():
        recorder.start(pixels)
        for part in parts(watched, pixels):
            recorder.times = part.times
            part.run()
    return recorder.layers


def _convolve(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    seen = given[0]
    stride, padding, dilation, extra = (_pair(value) for value in (stride, padding, dilation, output_padding))
    kernel = _pair(weight.shape[2:])
    edges = _edges(padding, seen.padding)
    windows = _windows(kernel, stride, edges, dilation)
    size = _unpadded(x, seen.padding)
    multiply_adds = weight.numel() * (x if transposed else output)[0, 0].numel()
    if transposed:
        channels = weight.shape[1] * groups
        sides = [w.transposed_output(n, e) for w, n, e in zip(windows, size[1:], extra, strict=True)]
        fields = _each(seen.fields, windows, Field.spread)
        kind = "transposed convolution"
    else:
        channels = weight.shape[0]
        sides = [w.output(n) for w, n in zip(windows, size[1:], strict=True)]
        fields = _each(seen.fields, windows, Field.slide)
        kind = "convolution" if groups == 1 else "grouped convolution"
        if groups == size[0] > 1:
            kind = "depthwise convolution"
    return recorder.add(
        _Seen(fields, seen.lone),
        kind=kind, input=size, output=(channels, *sides), observed=_size(output),
        kernel=kernel, stride=stride, padding=edges, dilation=dilation, groups=groups,
        output_padding=extra if transposed else None, multiply_adds=multiply_adds,
    )  # fmt: skip


def _pool(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    seen = given[0]
    maximum = name.startswith("max")
    values = [*args[1:], *[None] * 6]
    kernel = _pair(values[0])
    stride, padding = _pair(values[1] or kernel), _pair(values[2] or 0)
    dilation, ceil = (_pair(values[3] or 1), bool(values[4])) if maximum else ((1, 1), bool(values[3]))
    # The padding of an operation of its own is zeros for a maximum as well, but a window all the same.
    edges = _edges(padding, seen.padding)
    windows = _windows(kernel, stride, edges, dilation)
    size = _unpadded(args[0], seen.padding)
    sides = [w.output(n, ceil=ceil) for w, n in zip(windows, size[1:], strict=True)]
    return recorder.add(
        _Seen(_each(seen.fields, windows, Field.slide)),
        kind="max pooling" if maximum else "L2 pooling" if seen.squared else "average pooling",
        input=size, output=(size[0], *sides), observed=_size(output),
        kernel=kernel, stride=stride, padding=edges, dilation=dilation,
    )  # fmt: skip


def _pool_adaptively(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    size, wanted = _size(args[0]), _pair(args[1])
    if wanted == (1, 1):
        return _pool_globally(recorder, name, args, given, output)
    fields = None
    if given[0].fields is not None:
        y, x = given[0].fields
        fields = (_adapt(y, size[1], wanted[0]), _adapt(x, size[2], wanted[1]))
    return recorder.add(
        _Seen(fields),
        kind="adaptive max pooling" if "max" in name else "adaptive average pooling",
        input=size, output=(size[0], *wanted), observed=_size(output),
    )  # fmt: skip


def _pool_globally(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    """A reduction over the last two axes; over others, nothing is known of the result."""
    x, seen = args[0], given[0]
    place = 2 if name == "linalg_vector_norm" else 1
    axes = args[place] if len(args) > place else ()
    if "adaptive" not in name and (x.dim() != 4 or sorted(axis % 4 for axis in axes or ()) != [2, 3]):
        return _Seen()
    size = _size(x)
    power = args[1] if name == "linalg_vector_norm" and len(args) > 1 else None
    kind = "max" if "max" in name else "L2" if seen.squared or power == 2 else "average"
    fields = None
    if seen.fields is not None:
        spans = [axis.span(0, side - 1) for axis, side in zip(seen.fields, size[1:], strict=True)]
        y, x = (Field((low,), (high,), 0) for low, high in spans)
        fields = (y, x)
    observed = _size(output)
    return recorder.add(
        _Seen(fields, lone=True),
        kind=f"global {kind} pooling",
        input=size, output=(size[0], 1, 1)[: len(observed)], observed=observed,
        kernel=(size[1], size[2]), stride=(1, 1), padding=(0, 0, 0, 0),
    )  # fmt: skip


def _multiply(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    """A matrix product: a linear layer where a module holds the matrix, else one of two computed tensors."""
    left, right = args[-2:] if name in ("addmm", "baddbmm") else args[:2]
    linear = isinstance(recorder._modules[-1][1], nn.Linear)
    return recorder.add(
        given[0] if given[0].lone and len(given) == 1 else _Seen(),
        kind="linear" if linear else "matrix product",
        input=(left.shape[-1],), output=(right.shape[-1],), observed=(output.shape[-1],),
        multiply_adds=left.numel() * right.shape[-1],
    )  # fmt: skip


def _normalise(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    size = _size(args[0])
    batch = "batch" in name
    # The mean and variance of a group are over the whole map; those of a batch were learnt, and in eval mode are fixed.
    seen = given[0] if batch else _Seen(layer=given[0].layer)
    kind = "batch norm" if batch else "group norm" if "group" in name else "layer norm"
    return recorder.add(seen, folds=True, kind=kind, input=size, output=size, observed=_size(output))


def _add(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    seen = _pointwise(name, args, given, output)
    both = [arg for arg in args[:2] if isinstance(arg, Tensor) and arg in recorder._known]
    if len(both) < 2 or output.dim() != 4:
        return seen
    size = _size(output)
    return recorder.add(seen, kind="addition", input=_size(args[0]), output=_broadcast(*both), observed=size)


def _pad(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    seen = given[0]
    if output.dim() != 4 or len(args[1]) > 4 or seen.fields is None:
        return _Seen()
    left, right, top, bottom = (*args[1], 0, 0)[:4]
    had = seen.padding
    padding = (had[0] + top, had[1] + bottom, had[2] + left, had[3] + right)
    # The fields stay those of the map without its padding: the window that comes takes both together.
    return replace(seen, padding=padding, layer=None)


def _upsample(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    size = _size(args[0])
    height, width = args[1]
    bilinear = "bilinear" in name
    # With corners aligned, neighbours see windows at uneven distances.
    fields = None
    if given[0].fields is not None and "cubic" not in name and not (bilinear and args[2]):
        y, x = given[0].fields
        fields = (_resize(y, size[1], height, bilinear), _resize(x, size[2], width, bilinear))
    return recorder.add(
        _Seen(fields),
        kind=f"{name.removeprefix('upsample_').removesuffix('2d')} upsampling",
        input=size, output=(size[0], height, width), observed=_size(output),
    )  # fmt: skip


def _align(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    size = _size(args[0])
    return recorder.add(
        _Seen(), kind="RoIAlign", input=size, output=(size[0], args[3], args[4]), observed=_size(output)
    )


def _concatenate(recorder: Recorder, name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    axis = (args[1] if len(args) > 1 else 0) % output.dim()
    return _join(given) if axis == 1 and output.dim() == 4 and len(given) == len(args[0]) else _Seen()


def _pointwise(name: str, args: Sequence[Any], given: list[_Seen], output: Tensor) -> _Seen:
    """What is known after an operation that treats every cell by itself."""
    squares = name == "square" or (name == "pow" and args[1] == 2) or (name == "mul" and args[0] is args[1])
    return replace(_join(given), squared=squares)


def _reshaped(name: str, given: list[_Seen], before: Any, output: Tensor) -> _Seen:
    """What is known after any other operation: all that was, where it only hands on or views one tensor."""
    seen = given[0]
    if len(given) == 1 and name in _COPIES:
        return seen
    if len(given) == 1 and name in _VIEWS and isinstance(before, Tensor):
        if seen.lone or (output.dim() >= 2 and before.dim() >= 2 and output.shape[-2:] == before.shape[-2:]):
            return seen
        # A matrix product over the last axis is a layer, whatever became of places.
        return _Seen(layer=seen.layer)
    return _Seen()


def _settled(seen: _Seen) -> _Seen:
    """Padding that no window takes is part of the map."""
    if seen.fields is None or not any(seen.padding):
        return seen
    y, x = seen.fields
    return replace(seen, fields=(y.shift(seen.padding[0]), x.shift(seen.padding[2])), padding=(0, 0, 0, 0))


def _join(given: list[_Seen]) -> _Seen:
    first = given[0]
    fields = first.fields
    for other in given[1:]:
        if fields is None or other.fields is None or other.lone != first.lone:
            return _Seen(lone=first.lone and other.lone, layer=first.layer)
        y, x = (one.join(two) for one, two in zip(fields, other.fields, strict=True))
        fields = None if y is None or x is None else (y, x)
    return _Seen(fields, first.lone, layer=first.layer)


def _each(
    fields: tuple[Field, Field] | None, windows: tuple[Window, Window], move: Callable[[Field, Window], Field | None]
) -> tuple[Field, Field] | None:
    if fields is None:
        return None
    y, x = (move(one, window) for one, window in zip(fields, windows, strict=True))
    return None if y is None or x is None else (y, x)


def _adapt(one: Field, before: int, after: int) -> Field:
    """Adaptive pooling: window i from floor(i W / O) to ceil((i + 1) W / O)."""
    return one.resample(before, after, lambda cell: (cell * before // after, -(-(cell + 1) * before // after) - 1))


def _resize(one: Field, before: int, after: int, bilinear: bool) -> Field:
    def taps(cell: int) -> tuple[int, int]:
        if not bilinear:
            return (cell * before // after,) * 2
        # The source place (cell + 1/2) before / after - 1/2, in halves of a cell of the result, lies between two.
        twice = (2 * cell + 1) * before - after
        first = twice // (2 * after)
        return first, first + (twice % (2 * after) > 0)

    return one.resample(before, after, taps)


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


def _broadcast(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True))


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _activation(name: str, args: Sequence[Any]) -> str:
    if name == "hardtanh":
        return "ReLU6" if list(args[1:3]) == [0, 6] else "hardtanh"
    return _ACTIVATIONS[name]


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


_ACTIVATIONS = {
    "relu": "ReLU",
    "hardtanh": "ReLU6",
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
_DROPOUTS = {
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
}
_WINDOWS = {"convolution", "max_pool2d_with_indices", "avg_pool2d", "constant_pad_nd"}
_HANDLERS: dict[str, Callable[[Recorder, str, Sequence[Any], list[_Seen], Tensor], _Seen]] = {
    "convolution": _convolve,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _pool_adaptively,
    "adaptive_max_pool2d": _pool_adaptively,
    "mean": _pool_globally,
    "amax": _pool_globally,
    "linalg_vector_norm": _pool_globally,
    "addmm": _multiply,
    "baddbmm": _multiply,
    "mm": _multiply,
    "bmm": _multiply,
    "native_batch_norm": _normalise,
    "cudnn_batch_norm": _normalise,
    "miopen_batch_norm": _normalise,
    "native_group_norm": _normalise,
    "native_layer_norm": _normalise,
    "add": _add,
    "constant_pad_nd": _pad,
    "upsample_nearest2d": _upsample,
    "upsample_bilinear2d": _upsample,
    "upsample_bicubic2d": _upsample,
    "roi_align": _align,
    "cat": _concatenate,
}
