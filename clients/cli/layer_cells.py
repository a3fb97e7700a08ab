"""The cells of a table of layers: the figures of each operation, in short."""

from typing import Any, Literal

from foursight.schema import Layer, Stage

COLUMNS: dict[str, Literal["left", "right"]] = {
    "layer": "left",
    "kind": "left",
    "kernel": "left",
    "pad": "left",
    "channels": "right",
    "height x width": "right",
    "field": "right",
    "params": "right",
    "M-adds": "right",
    "then": "left",
}
# A longer name loses its beginning, so that the table fits into 100 columns.
_NAME_WIDTH = 26
_KINDS = {
    "convolution": "conv",
    "depthwise convolution": "depthwise",
    "transposed convolution": "transposed",
    "max pooling": "max pool",
    "average pooling": "avg pool",
    "L2 pooling": "L2 pool",
    "global average pooling": "global avg",
    "global max pooling": "global max",
    "global L2 pooling": "global L2",
    "adaptive average pooling": "adapt. avg",
    "adaptive max pooling": "adapt. max",
    "nearest upsampling": "upsample",
    "bilinear upsampling": "upsample",
    "matrix product": "matmul",
    "addition": "add",
}


def rows_of(stage: Stage) -> list[list[str]]:
    """Return the rows of a stage, a cell for each of COLUMNS.

    A norm, sum, activation or dropout after a layer is in the last cell of that layer's row.
    """
    folded: list[tuple[Layer, list[str], int]] = []
    for layer in stage.layers:
        word = _short_name(layer)
        if word and folded and layer.input == layer.output == folded[-1][0].output:
            before, words, parameters = folded[-1]
            folded[-1] = (before, [*words, word], parameters + layer.parameters)
        else:
            folded.append((layer, [], layer.parameters))
    prefix = _common_prefix([layer.name for layer, _, _ in folded])
    return [_row(layer, layer.name[prefix:], words, parameters) for layer, words, parameters in folded]


def short(count: float) -> str:
    """Return a count in at most five characters: 95.6M; nothing for 0."""
    if not count:
        return ""
    for unit in ("", "K", "M", "G"):
        if count < 999.5 or unit == "G":
            return f"{count:.0f}{unit}" if not unit or count >= 99.5 else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _short_name(layer: Layer) -> str | None:
    if layer.kind == "dropout":
        return f"dropout {layer.dropout:g}".replace("0.", ".")
    if layer.kind == "activation":
        return layer.activation
    return {"batch norm": "BN", "group norm": "GN", "addition": "+"}.get(layer.kind)


def _row(layer: Layer, name: str, words: list[str], parameters: int) -> list[str]:
    kind = _KINDS.get(layer.kind, layer.kind)
    if layer.kind == "grouped convolution":
        kind = f"conv /{layer.groups}"
    if layer.kind in ("activation", "dropout"):
        kind = _short_name(layer) or kind
    if layer.call > 1:
        name = f"{name} ({layer.call})"
    return [
        name if len(name) <= _NAME_WIDTH else f"…{name[1 - _NAME_WIDTH :]}",
        kind,
        _kernel(layer),
        _padding(layer),
        _change(str(layer.input[0]), str(layer.output[0])),
        _change(_sides(layer.input), _sides(layer.output)),
        _field(layer),
        short(parameters),
        short(layer.multiply_adds),
        " ".join(words),
    ]


def _kernel(layer: Layer) -> str:
    if layer.kernel is None or layer.stride is None:
        return ""
    stride = "" if layer.stride == (1, 1) else f"/{_pair(layer.stride, ',')}"
    dilation = "" if layer.dilation in (None, (1, 1)) else f" d{_pair(layer.dilation, ',')}"
    return f"{layer.kernel[0]}x{layer.kernel[1]}{stride}{dilation}"


def _padding(layer: Layer) -> str:
    if layer.padding is None or not any(layer.padding):
        return ""
    top, bottom, left, right = layer.padding
    vertical = str(top) if top == bottom else f"{top}+{bottom}"
    horizontal = str(left) if left == right else f"{left}+{right}"
    return vertical if vertical == horizontal else f"{vertical},{horizontal}"


def _field(layer: Layer) -> str:
    if layer.receptive_field is None or layer.field_centre is None:
        return ""
    stride = "" if layer.field_stride is None else f"/{_pair(layer.field_stride, ',')}"
    return f"{_pair(layer.receptive_field, 'x')}{stride}@{_pair(layer.field_centre, ',')}"


def _pair(pair: Any, between: str) -> str:
    first, second = (f"{value:g}" for value in pair)
    return first if first == second else f"{first}{between}{second}"


def _sides(size: list[int]) -> str:
    return _pair(size[1:], "x") if len(size) == 3 else ""


def _change(before: str, after: str) -> str:
    return after if before == after else f"{before}>{after}" if after else before


def _common_prefix(names: list[str]) -> int:
    """The length of the dotted prefix that all names share, without their last parts."""
    parts = [name.split(".") for name in names if name]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return sum(len(part) + 1 for part in parts[0][:shared]) if parts else 0
