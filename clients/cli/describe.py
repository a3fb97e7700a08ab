"""`foursight describe`: a network's layers as a table, or the arithmetic of one convolution."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foursight.clients.cli.extras import server_packages
from foursight.schema import Layer, LayerTable, Stage
from foursight.schema.tasks import TASKS

if TYPE_CHECKING:
    from foursight.models.inspection import geometry

WIDTH = 100
PROFILES = ("tiny", "standard")


def describe(
    model: Annotated[
        str | None,
        typer.Argument(help="classify, localize, detect, segment; or a fine-tuned model, its name or path."),
    ] = None,
    profile: Annotated[str, typer.Option(help="tiny or standard.")] = "tiny",
    size: Annotated[str | None, typer.Option(help="The network's input: 224, or WIDTHxHEIGHT.")] = None,
    conv: Annotated[
        tuple[int, int, int, str] | None,
        typer.Option(
            metavar="W K S P",
            help="One convolution instead of a model: input, kernel, stride and padding, which is a number, "
            "BEFORE+AFTER, or same.",
        ),
    ] = None,
    dilation: Annotated[int, typer.Option(help="Of --conv.", min=1)] = 1,
    transposed: Annotated[bool, typer.Option("--transposed", help="--conv is transposed.")] = False,
    models_dir: Annotated[
        Path | None,
        typer.Option(envvar="FOURSIGHT_MODELS_DIR", show_envvar=False, help="Where MODEL lies.", metavar="FOLDER"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every layer and every figure, as JSON.")] = False,
) -> None:
    """Show what a model's layers do: kernel, stride, padding, sizes, receptive field, parameters, multiply-adds.

    `describe --conv 224 7 2 3` answers the formula alone.
    """
    if conv is not None and model is None:
        raise typer.Exit(_answer_formula(*conv, dilation, transposed, as_json))
    if model is None or conv is not None:
        raise typer.BadParameter(f"give either a model ({', '.join(TASKS)}, or a name) or --conv W K S P")
    if profile not in PROFILES:
        raise typer.BadParameter(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    table = _measure(model, profile, size, models_dir)
    if as_json:
        sys.stdout.write(table.model_dump_json(indent=2) + "\n")
    else:
        show(table)


def _measure(model: str, profile: str, size: str | None, models_dir: Path | None) -> LayerTable:
    with server_packages("foursight describe"):
        from foursight.models.finetuned import networks  # noqa: PLC0415
        from foursight.models.inspection import summary  # noqa: PLC0415
    from foursight.clients.cli.tuned import find  # noqa: PLC0415
    from foursight.models.errors import ModelError  # noqa: PLC0415
    from foursight.schema.layers import parse_size  # noqa: PLC0415

    try:
        wanted = None if size is None else parse_size(size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--size") from None
    try:
        if model in TASKS:
            # `profile` is one of PROFILES.
            title, network = f"{model} ({profile})", summary.build(model, profile)  # type: ignore[arg-type]
        else:
            tuned = find(model, models_dir)
            title, network = f"{tuned.name} ({tuned.task})", networks.load(tuned.name, tuned.folder)
    except ModelError as error:
        raise typer.BadParameter(f"{error} The tasks' own: {', '.join(TASKS)}.", param_hint="MODEL") from None
    return LayerTable.model_validate({"model": title, **asdict(summary.summarize(network, wanted))})


def _answer_formula(
    size: int, kernel: int, stride: int, padding: str, dilation: int, transposed: bool, as_json: bool
) -> int:
    from foursight.models.inspection import geometry  # noqa: PLC0415

    try:
        sides = _sides_of_padding(padding, geometry.same_padding(size, kernel, max(stride, 1), dilation))
        answer = geometry.answer(size, geometry.Window(kernel, stride, *sides, dilation), transposed=transposed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--conv") from None
    if as_json:
        sys.stdout.write(json.dumps(asdict(answer), indent=2) + "\n")
    else:
        print("\n".join(_explain(answer)))
    return 0 if answer.output else 1


def _explain(answer: "geometry.WindowAnswer") -> list[str]:
    reach = answer.dilation * (answer.kernel - 1) + 1
    padding = answer.before + answer.after
    size, stride = answer.size, answer.stride
    kernel = (
        f"K = D (k - 1) + 1 = {answer.dilation} x {answer.kernel - 1} + 1 = {reach}, " if answer.dilation > 1 else ""
    )
    lines = [f"{kernel}P = {answer.before} before + {answer.after} after = {padding}"]
    if answer.transposed:
        lines.append(f"O = (W - 1) S - P + K = {size - 1} x {stride} - {padding} + {reach} = {answer.output}")
        if not answer.output:
            lines.append("Nothing is left: the padding takes away more than there is.")
        target = f"W S = {size * stride}"
    elif not answer.output:
        room = size + padding
        lines.append(f"The filter does not fit: it covers {reach} cells, and the padded input has {room}.")
        lines.append(f"It fits with P = {reach - size} or more, both ends together, or from W = {reach - padding} on.")
        target = f"ceil(W / S) = {-(-size // stride)}"
    else:
        lines.append(
            f"O = floor((W - K + P) / S) + 1 = floor(({size} - {reach} + {padding}) / {stride}) + 1 = {answer.output}"
        )
        lines.append(_fit(answer))
        target = f"ceil(W / S) = {-(-size // stride)}"
    if answer.same is None:
        lines.append(f"No padding gives {target}: the stride is longer than the filter.")
    elif answer.same == (answer.before, answer.after):
        lines.append(f'This is "same" padding: O = {target}.')
    else:
        before, after = answer.same
        lines.append(f'"Same" padding, for O = {target}, would be {before} before and {after} after.')
    return lines


def _fit(answer: "geometry.WindowAnswer") -> str:
    if not answer.left_over:
        return "The filter fits evenly."
    cells = "1 cell" if answer.left_over == 1 else f"{answer.left_over} cells"
    verb = "is" if answer.left_over == 1 else "are"
    if not answer.left_over_input:
        loss = "padding only"
    elif answer.left_over_input == answer.left_over:
        loss = "of the input"
    else:
        loss = f"{answer.left_over_input} of the input"
    return f"The filter does not fit evenly: {cells} at the end {verb} left over, {loss}."


def _sides_of_padding(text: str, same: tuple[int, int]) -> tuple[int, int]:
    if text == "same":
        return same
    sides = text.split("+")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(f"{text!r} is no padding: give a number, BEFORE+AFTER as 0+1, or same")
    return int(sides[0]), int(sides[-1])


def show(table: LayerTable) -> None:
    """Print a table of layers, WIDTH columns wide or less."""
    console = Console(highlight=False, soft_wrap=True)
    height, width = table.size
    console.print(f"[bold]{table.model}[/bold], input 3 x {height} x {width} (channels x height x width)\n")
    sections = [(stage, _rows(stage)) for stage in table.stages]
    cells = [_HEADER, *(row for _, rows in sections for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    # Names give way, at their beginnings, to what is measured.
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - len(widths) + 1)
    console.print(f"[dim]{_line(_HEADER, widths)}[/dim]")
    for stage, rows in sections:
        times = max(layer.times for layer in stage.layers)
        note = f", for each of up to {times} regions" if times > 1 else ""
        console.print(f"[bold cyan]{stage.name}[/bold cyan]{note}")
        for row in rows:
            console.print(_line(row, widths), markup=False)
    unused = f", {_short(table.unused_parameters)} of which this task does not use" if table.unused_parameters else ""
    regions = f", up to {_short(table.region_multiply_adds)} of which for regions" if table.region_multiply_adds else ""
    console.print(
        f"\n{_short(table.parameters)} parameters{unused};\n"
        f"{_short(table.multiply_adds)} multiply-adds{regions}.\n"
        "[dim]kernel / stride; padding of a side, or before+after; one number where height and width are alike;\n"
        "field: receptive field in pixels / its stride @ the centre of the first cell's.[/dim]"
    )


_HEADER = ["layer", "kind", "kernel", "pad", "channels", "height x width", "field", "params", "M-adds", "then"]
_LEFT = {"layer", "kind", "kernel", "pad", "then"}
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


def _line(cells: list[str], widths: list[int]) -> str:
    texts = []
    for title, text, width in zip(_HEADER, cells, widths, strict=True):
        cut = text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"
        texts.append(cut.ljust(width) if title in _LEFT else cut.rjust(width))
    return " ".join(texts).rstrip()


def _rows(stage: Stage) -> list[list[str]]:
    """The lines of a stage: what only follows a layer (norm, sum, activation, dropout) stands in its line."""
    folded: list[tuple[Layer, list[str], int]] = []
    for layer in stage.layers:
        word = _follower(layer)
        if word and folded and layer.input == layer.output == folded[-1][0].output:
            before, words, parameters = folded[-1]
            folded[-1] = (before, [*words, word], parameters + layer.parameters)
        else:
            folded.append((layer, [], layer.parameters))
    prefix = _common_prefix([layer.name for layer, _, _ in folded])
    return [_row(layer, layer.name[prefix:], words, parameters) for layer, words, parameters in folded]


def _follower(layer: Layer) -> str | None:
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
        kind = _follower(layer) or kind
    if layer.call > 1:
        name = f"{name} ({layer.call})"
    return [
        name,
        kind,
        _kernel(layer),
        _padding(layer),
        _change(str(layer.input[0]), str(layer.output[0])),
        _change(_sides(layer.input), _sides(layer.output)),
        _field(layer),
        _short(parameters),
        _short(layer.multiply_adds),
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
    """How many letters of whole parts of a dotted name all names share, their last parts left out."""
    parts = [name.split(".") for name in names if name]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return sum(len(part) + 1 for part in parts[0][:shared]) if parts else 0


def _short(count: float) -> str:
    """A count in at most five signs."""
    if not count:
        return ""
    for unit in ("", "K", "M", "G"):
        if count < 999.5 or unit == "G":
            return f"{count:.0f}{unit}" if not unit or count >= 99.5 else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError("unreachable")
