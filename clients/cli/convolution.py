"""`foursight describe --conv`: the arithmetic of one convolution, written out."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from foursight.clients.cli.command import FAILED

if TYPE_CHECKING:
    from foursight.models.inspection import geometry


def describe_convolution(
    size: int, kernel: int, stride: int, padding: str, *, dilation: int, transposed: bool, as_json: bool
) -> int:
    """Print the output size, the padding and the cells left over; return 1 if the filter does not fit."""
    from foursight.models.inspection import geometry  # noqa: PLC0415

    try:
        sides = _parse_padding(padding, geometry.same_padding(size, kernel, max(stride, 1), dilation))
        answer = geometry.answer(size, geometry.Window(kernel, stride, *sides, dilation), transposed=transposed)
    except ValueError as error:
        raise click.UsageError(f"--conv: {error}.") from None
    print(json.dumps(asdict(answer), indent=2) if as_json else "\n".join(_explain(answer)))
    return 0 if answer.output else FAILED


def _parse_padding(text: str, same: tuple[int, int]) -> tuple[int, int]:
    if text == "same":
        return same
    sides = text.split("+")
    if len(sides) > 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ValueError(f"the padding {text!r} is not a number, BEFORE+AFTER (0+1) or same")
    return int(sides[0]), int(sides[-1])


def _explain(answer: "geometry.WindowAnswer") -> list[str]:
    extent = answer.dilation * (answer.kernel - 1) + 1
    padding = answer.before + answer.after
    size, stride = answer.size, answer.stride
    kernel = (
        f"K = D (k - 1) + 1 = {answer.dilation} x {answer.kernel - 1} + 1 = {extent}, " if answer.dilation > 1 else ""
    )
    lines = [f"{kernel}P = {answer.before} before + {answer.after} after = {padding}"]
    if answer.transposed:
        lines.append(f"O = (W - 1) S - P + K = {size - 1} x {stride} - {padding} + {extent} = {answer.output}")
        if not answer.output:
            lines.append("The output is empty: the padding removes more cells than it has.")
        target = f"W S = {size * stride}"
    elif not answer.output:
        lines.append(f"The filter does not fit: it covers {extent} cells, and the padded input has {size + padding}.")
        lines.append(
            f"It fits with P = {extent - size} or more, both ends together, or with W = {extent - padding} or more."
        )
        target = f"ceil(W / S) = {-(-size // stride)}"
    else:
        lines.append(
            f"O = floor((W - K + P) / S) + 1 = floor(({size} - {extent} + {padding}) / {stride}) + 1 = {answer.output}"
        )
        lines.append(_describe_fit(answer))
        target = f"ceil(W / S) = {-(-size // stride)}"
    if answer.same is None:
        lines.append(f"No padding results in {target}: the stride is longer than the filter.")
    elif answer.same == (answer.before, answer.after):
        lines.append(f'This is "same" padding: O = {target}.')
    else:
        before, after = answer.same
        lines.append(f'"Same" padding, for O = {target}, would be {before} before and {after} after.')
    return lines


def _describe_fit(answer: "geometry.WindowAnswer") -> str:
    if not answer.left_over:
        return "The filter fits evenly."
    cells = "1 cell at the end is" if answer.left_over == 1 else f"{answer.left_over} cells at the end are"
    if not answer.left_over_input:
        loss = "padding only"
    elif answer.left_over_input == answer.left_over:
        loss = "of the input"
    else:
        loss = f"{answer.left_over_input} of the input"
    return f"The filter does not fit evenly: {cells} left over, {loss}."
