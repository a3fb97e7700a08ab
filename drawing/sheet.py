"""A contact sheet: images of any size in a grid, each with a caption."""

from collections.abc import Sequence

from PIL import Image

from foursight.drawing.palette import WHITE
from foursight.drawing.text import TextStyle, one_line

_BACKGROUND = (16, 18, 23)
_TILE = (480, 300)  # width and height in pixels that an image is fitted into
_GAP = 12
_COLUMNS = 4
_TEXT = TextStyle(16)


def contact_sheet(tiles: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Lay out (image, caption) pairs row by row on an RGB image; without any, it is empty."""
    columns = max(1, min(_COLUMNS, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    width, height = _TILE[0] + _GAP, _TILE[1] + _TEXT.height + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _BACKGROUND)
    for index, (image, caption) in enumerate(tiles):
        left, top = _GAP + index % columns * width, _GAP + index // columns * height
        small = image.copy()
        small.thumbnail(_TILE)
        sheet.paste(small, (left + (_TILE[0] - small.width) // 2, top + (_TILE[1] - small.height) // 2))
        text = _TEXT.shorten(one_line(caption, "?"), _TILE[0])
        _TEXT.write(sheet, left, top + _TILE[1], text, WHITE)
    return sheet
