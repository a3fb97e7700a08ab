"""An explanation as one picture: the image, the evidence for its label, and what the channels of a layer respond to."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from foursight.drawing import palette
from foursight.drawing.text import TextStyle, one_line

if TYPE_CHECKING:
    from foursight.models.inspection.explain import Explanation

WIDTH = 1240
_MARGIN, _GAP = 28, 16
_PAPER, _INK, _GREY = (255, 255, 255), (22, 24, 29), (104, 110, 122)
_TITLE, _TEXT, _SMALL = TextStyle(34), TextStyle(19), TextStyle(15)
_COLUMNS = 6
_BAR = 14
# Opacity of the colours at the least and at the most evidence.
_CLEAR, _DENSE = 0.3, 0.72
# In place of a label that no font has.
_UNREADABLE = "label"


def draw_explanation(image: Image.Image, found: "Explanation", model: str) -> Image.Image:
    """Draw the explanation of the RGB image `image` by the model named `model`, WIDTH pixels wide."""
    column = (WIDTH - 2 * _MARGIN - _GAP) // 2
    scale = min(column / image.width, 560 / image.height)
    shown = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    frame = tuple(round(side * scale) for side in found.frame)
    cell = (WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
    rows = -(-len(found.channels) // _COLUMNS)
    top = _MARGIN + _TITLE.height + _TEXT.height + _GAP
    legend = top + shown.height + _GAP
    grid = legend + _BAR + _SMALL.height + 2 * _GAP + _TEXT.height + _GAP // 2
    paper = Image.new("RGB", (WIDTH, grid + rows * (cell + _SMALL.height + _GAP // 2) + _MARGIN - _GAP), _PAPER)

    _TITLE.write(paper, _MARGIN, _MARGIN - 8, _TITLE.shorten(_heading(found), WIDTH - 2 * _MARGIN), _INK)
    about = f"{model}: where in the image the evidence for “{one_line(found.label, _UNREADABLE)}” lies"
    _TEXT.write(paper, _MARGIN, _MARGIN + _TITLE.height - 4, _TEXT.shorten(about, WIDTH - 2 * _MARGIN), _GREY)
    second = _MARGIN + column + _GAP
    for left, picture in ((_MARGIN, shown), (second, _overlay(shown, frame, found))):
        framed = picture.copy()
        ImageDraw.Draw(framed).rectangle(_inside(frame, framed.size), outline=_PAPER, width=2)
        paper.paste(framed, (left + (column - shown.width) // 2, top))
    note = "frame: the part that the network sees"
    _SMALL.write(paper, _MARGIN + (column - shown.width) // 2, top + shown.height + _GAP // 4, note, _GREY)
    _draw_legend(paper, second + (column - shown.width) // 2, legend, shown.width, found)

    side = "x".join(map(str, found.maps.shape[2:0:-1]))
    caption = (
        f"Layer {found.layer}: {len(found.channels)} of its {found.layer_channels} channels, "
        f"{side} cells each, that vary most over the image"
    )
    _TEXT.write(paper, _MARGIN, grid - _TEXT.height - _GAP // 2, caption, _INK)
    for index, (channel, responses) in enumerate(zip(found.channels, found.maps, strict=True)):
        row, column_index = divmod(index, _COLUMNS)
        left = _MARGIN + column_index * (cell + _GAP)
        above = grid + row * (cell + _SMALL.height + _GAP // 2)
        tile = Image.fromarray(palette.heat()[_levels(responses)])
        paper.paste(tile.resize((cell, cell), Image.Resampling.NEAREST), (left, above))
        _SMALL.write(paper, left, above + cell, f"channel {channel}", _GREY)
    return paper


def _heading(found: "Explanation") -> str:
    share = f"{100 * found.score:.1f} %" if found.score >= 0.0005 else "below 0.1 %"
    return f"{one_line(found.label, _UNREADABLE)}  {share}"


def _overlay(shown: Image.Image, frame: tuple[int, ...], found: "Explanation") -> Image.Image:
    """Return the image in grey, with the evidence in colours over the part that the network sees."""
    grey = shown.convert("L").convert("RGB")
    box = (max(frame[0], 0), max(frame[1], 0), min(frame[2], shown.width), min(frame[3], shown.height))
    levels = _levels(found.enlarged(box[2] - box[0], box[3] - box[1]))
    seen = np.asarray(grey.crop(box), dtype=np.float32)
    alpha = (_CLEAR + (_DENSE - _CLEAR) * levels.astype(np.float32) / 255)[..., None]
    mixed = (1 - alpha) * seen + alpha * palette.heat()[levels]
    # The rest of the image does not affect the answer.
    faded = Image.blend(grey, Image.new("RGB", grey.size, _PAPER), 0.55)
    faded.paste(Image.fromarray(mixed.round().astype(np.uint8)), box)
    return faded


def _draw_legend(paper: Image.Image, left: int, top: int, width: int, found: "Explanation") -> None:
    """Draw the colour scale of the evidence, with the values at its ends."""
    bar = Image.fromarray(palette.heat()[None]).resize((width, _BAR), Image.Resampling.BILINEAR)
    paper.paste(bar, (left, top))
    low, high = (f"{value:+.1f}" for value in (found.evidence.min(), found.evidence.max()))
    _SMALL.write(paper, left, top + _BAR, low, _GREY)
    _SMALL.write(paper, left + width - _SMALL.width(high), top + _BAR, high, _GREY)
    middle = f"contribution to the logit, mean {found.evidence.mean():+.1f}"
    _SMALL.write(paper, left + (width - _SMALL.width(middle)) // 2, top + _BAR, middle, _GREY)


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale values linearly: the least becomes 0, the greatest 255."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    levels: NDArray[np.uint8] = (255 * scaled).round().astype(np.uint8)
    return levels


def _inside(frame: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    return max(frame[0], 0), max(frame[1], 0), min(frame[2], size[0]) - 1, min(frame[3], size[1]) - 1
