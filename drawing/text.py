"""Text and anti-aliased rounded shapes on an image."""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

from foursight.drawing import typefaces
from foursight.drawing.layout import Rect
from foursight.drawing.palette import Rgb

_CAPITAL = 0.727  # height of a capital letter in em
_OVERSAMPLE = 4


@dataclass(frozen=True)
class TextStyle:
    """A size of text, `em` in pixels, and of the tags around it."""

    em: int

    @property
    def pad(self) -> int:
        """Space in pixels on the left and on the right of the text in a tag."""
        return max(2, round(0.36 * self.em))

    @property
    def height(self) -> int:
        """Height of a tag in pixels."""
        return round(1.4 * self.em)

    def width(self, text: str) -> int:
        """Return the width of a line of text in pixels, without padding."""
        return round(sum(typefaces.load(face, self.em).getlength(part) for face, part in typefaces.runs(text)))

    def tag(self, text: str) -> tuple[int, int]:
        """Return the (width, height) in pixels of the tag around a line of text."""
        return self.width(text) + 2 * self.pad, self.height

    def write(self, picture: Image.Image, left: int, top: int, text: str, ink: Rgb) -> None:
        """Write a line at `left`, its capitals vertically centred in a tag whose upper edge is at `top`."""
        baseline = top + (self.height + round(_CAPITAL * self.em)) // 2
        pen, x = ImageDraw.Draw(picture), float(left)
        for face, part in typefaces.runs(text):
            font = typefaces.load(face, self.em)
            pen.text((x, baseline), part, fill=ink, font=font, anchor="ls")
            x += font.getlength(part)

    def shorten(self, text: str, room: int) -> str:
        """Return the text, cut with an ellipsis if it is wider than `room` pixels."""
        if self.width(text) <= room:
            return text
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.width(text[:middle] + "…") <= room:
                fits = middle
            else:
                too_long = middle
        return text[:fits].rstrip() + "…"


def one_line(text: str, otherwise: str) -> str:
    """Return text in one line, with composed accents; `otherwise` if no font has its characters."""
    return typefaces.drawable(" ".join(unicodedata.normalize("NFC", text).split()), otherwise)


def tag_text(label: str, class_id: int) -> str:
    """Return a label as tags show it: in one line; the class id if it cannot be drawn."""
    return one_line(label, f"#{class_id}")


def paste_rounded(picture: Image.Image, rect: Rect, radius: int, colour: Rgb, *, alpha: float = 1.0) -> None:
    """Fill a rectangle with rounded corners; `alpha` 0..1."""
    width, height = rect[2] - rect[0], rect[3] - rect[1]
    radius = min(radius, width // 2, height // 2)
    mask = Image.new("L", (width, height), round(255 * alpha))
    for tile, left, top in _corners(radius, radius, width, height, alpha):
        mask.paste(tile, (left, top))
    picture.paste(colour, rect, mask)


def paste_frame(picture: Image.Image, rect: Rect, stroke: int, radius: int, colour: Rgb, *, alpha: float = 1.0) -> None:
    """Draw the outline of a rectangle, `stroke` pixels wide, inside `rect`, with rounded corners; `alpha` 0..1.

    Only the pixels of the outline are touched: a mask of the whole rectangle could be as large as the image.
    """
    x1, y1, x2, y2 = rect
    width, height = x2 - x1, y2 - y1
    stroke = min(stroke, (width + 1) // 2, (height + 1) // 2)
    radius = min(max(radius, stroke), width // 2, height // 2)
    level = round(255 * alpha)
    if radius < stroke:
        picture.paste(colour, rect, Image.new("L", (width, height), level))
        return
    across, down = (width - 2 * radius, stroke), (stroke, height - 2 * radius)
    for left, top, size in (
        (x1 + radius, y1, across),
        (x1 + radius, y2 - stroke, across),
        (x1, y1 + radius, down),
        (x2 - stroke, y1 + radius, down),
    ):
        picture.paste(colour, (left, top, left + size[0], top + size[1]), Image.new("L", size, level))
    for tile, left, top in _corners(radius, stroke, width, height, alpha):
        picture.paste(colour, (x1 + left, y1 + top, x1 + left + radius, y1 + top + radius), tile)


def _corners(radius: int, stroke: int, width: int, height: int, alpha: float) -> list[tuple[Image.Image, int, int]]:
    """Return the four corners (mask, left, top) of a rectangle of `width` x `height` pixels."""
    if radius < 1:
        return []
    tile = _corner(radius, stroke, round(255 * alpha))
    mirrored = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    right, bottom = width - radius, height - radius
    return [
        (tile, 0, 0),
        (mirrored, right, 0),
        (tile.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 0, bottom),
        (mirrored.transpose(Image.Transpose.FLIP_TOP_BOTTOM), right, bottom),
    ]


@lru_cache(maxsize=64)
def _corner(radius: int, stroke: int, level: int) -> Image.Image:
    """Return the upper left quarter of a ring as a mask, or of a disc if `stroke` is `radius`."""
    large = Image.new("L", (_OVERSAMPLE * radius,) * 2)
    end = 2 * _OVERSAMPLE * radius - 1
    edge = _OVERSAMPLE * stroke
    pen = ImageDraw.Draw(large)
    pen.ellipse((0, 0, end, end), fill=level)
    if stroke < radius:
        pen.ellipse((edge, edge, end - edge, end - edge), fill=0)
    return large.reduce(_OVERSAMPLE)
