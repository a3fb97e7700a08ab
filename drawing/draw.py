"""Draws predictions on an image: masks, boxes, tags, and a panel for labels without a box.

Used by the server and the SDK. All positions are in pixels of the image. Each mask is blended within the bounds of its
object, in bytes, so drawing on a large image needs little more memory than one copy of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from foursight.drawing import palette
from foursight.drawing.layout import Rect, TagRequest, place_tags
from foursight.drawing.panel import draw_panel
from foursight.drawing.text import TextStyle, paste_frame, paste_rounded, tag_text
from foursight.schema import Polygons, Prediction, Rle, rle

_FILL = 0.4
_RIM = 0.5


@dataclass(frozen=True)
class Style:
    """Sizes in pixels that scale with the image: strokes, their dark rim, and two sizes of text."""

    line: int
    rim: int
    text: TextStyle
    small: TextStyle


@dataclass(frozen=True)
class Item:
    """A prediction with a place in the image: its bounds in whole pixels, and its colour."""

    prediction: Prediction
    rect: Rect
    colour: palette.Rgb


def draw(image: Image.Image, predictions: Sequence[Prediction]) -> Image.Image:
    """Return a new RGB image with `predictions` drawn on it: small objects over large ones, tags over everything.

    Raises ValueError if a mask belongs to an image of another size.
    """
    picture = image.convert("RGB")
    style = _style(picture.size)
    placed, loose = _sort_out(sorted(predictions, key=lambda prediction: -prediction.score), picture.size)
    largest_first = sorted(placed, key=lambda item: -_area(item.rect))
    for item in largest_first:
        if item.prediction.mask is not None:
            _draw_mask(picture, item.prediction.mask, item, style)
    for item in largest_first:
        if item.prediction.box is not None:
            _draw_box(picture, item, style)
    panel = draw_panel(picture, loose, [item.rect for item in placed], style.text) if loose else None
    _draw_tags(picture, placed, style, [panel] if panel else [])
    return picture


def tag_forms(item: Item, style: Style, width: int) -> list[tuple[str, TextStyle]]:
    """Return the forms of a tag in order of preference, from long to short, for an image `width` pixels wide.

    If the object is much narrower than its tag, the first form already has the small text.
    """
    label = tag_text(item.prediction.label, item.prediction.class_id)
    score = f"{100 * item.prediction.score:.0f} %"
    narrow = item.rect[2] - item.rect[0] < 0.6 * style.text.width(f"{label} {score}")
    forms = []
    for text_style in (style.small,) if narrow else (style.text, style.small):
        room = width - 2 * text_style.pad
        beside_score = text_style.shorten(label, room - text_style.width(f" {score}"))
        if beside_score != "…":
            forms.append((f"{beside_score} {score}", text_style))
    forms.append((style.small.shorten(label, room), style.small))
    forms.append(
        (style.small.shorten(label, min(room, max(4 * style.small.em, item.rect[2] - item.rect[0]))), style.small)
    )
    return forms


def _style(size: tuple[int, int]) -> Style:
    # The side of a square of the same area, limited for panoramas by their short side.
    scale = min((size[0] * size[1]) ** 0.5, 2.0 * min(size))
    line = max(1, round(0.0038 * scale))
    em = max(10, round(0.026 * scale))
    return Style(line, max(1, round(0.4 * line)), TextStyle(em), TextStyle(max(9, round(0.8 * em))))


def _sort_out(ranked: Sequence[Prediction], size: tuple[int, int]) -> tuple[list[Item], list[Prediction]]:
    """Split predictions into those with a place in the image and those for the panel, both best first."""
    items: list[Item] = []
    loose: list[Prediction] = []
    seen = Counter[int]()
    one_object = _share_a_box(ranked)
    for prediction in ranked:
        rect = None if one_object and items else _extent(prediction, size)
        if rect is None:
            loose.append(prediction)
        else:
            items.append(Item(prediction, rect, palette.colour(prediction.class_id, seen[prediction.class_id])))
            seen[prediction.class_id] += 1
    return items, loose


def _share_a_box(predictions: Sequence[Prediction]) -> bool:
    """Whether these are several labels for one object, as localization returns them."""
    masks = any(prediction.mask is not None for prediction in predictions)
    return len(predictions) > 1 and not masks and len({prediction.box for prediction in predictions}) == 1


def _extent(prediction: Prediction, size: tuple[int, int]) -> Rect | None:
    """Return the bounds of a prediction's box, else of its mask, clipped to the image. None without either."""
    if prediction.box is not None:
        x1, y1, x2, y2 = (round(side) for side in prediction.box)
    elif isinstance(prediction.mask, Rle):
        mask = rle.decode(prediction.mask)
        xs, ys = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
        if not xs.size:
            return None
        x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    elif prediction.mask:
        xs, ys = (np.concatenate([outline[axis::2] for outline in prediction.mask]) for axis in (0, 1))
        x1, y1, x2, y2 = round(xs.min()), round(ys.min()), round(xs.max()), round(ys.max())
    else:
        return None
    x1, y1 = min(max(x1, 0), size[0] - 1), min(max(y1, 0), size[1] - 1)
    return x1, y1, min(max(x2, x1 + 1), size[0]), min(max(y2, y1 + 1), size[1])


def _draw_mask(picture: Image.Image, mask: Rle | Polygons, item: Item, style: Style) -> None:
    """Tint a mask and draw its contour. A blurred mask approximates the distance to the edge, which defines both."""
    window = _grown(item.rect, 3 * (style.line + style.rim), picture.size)
    bitmap = _bitmap(mask, window, picture.size)
    blurred = bitmap.filter(ImageFilter.GaussianBlur(_blur(style.line)))
    rim, tint = _ramps(style.line, style.rim)
    picture.paste(palette.BLACK, window, blurred.point(rim))
    picture.paste(item.colour, window, blurred.point(tint))


def _bitmap(mask: Rle | Polygons, window: Rect, size: tuple[int, int]) -> Image.Image:
    """Return the part of a mask inside `window`, mode L, 0 to 255."""
    x1, y1, x2, y2 = window
    if isinstance(mask, Rle):
        if mask.size != (size[1], size[0]):
            raise ValueError(
                f"the mask is for {mask.size[1]} x {mask.size[0]} pixels, the image has {size[0]} x {size[1]}"
            )
        part = rle.decode(mask)[y1:y2, x1:x2]
        return Image.fromarray(part.astype(np.uint8, order="C") * np.uint8(255))
    # Pillow rounds corners to whole pixels and includes the edge, which is visible on small objects only.
    finer = 4 if _area(window) < 1_000_000 else 1
    bitmap = Image.new("L", (finer * (x2 - x1), finer * (y2 - y1)))
    pen = ImageDraw.Draw(bitmap)
    for outline in mask:
        # The first pixel spans [0, 1) in the answer; for Pillow it is centred at 0.
        points = finer * (np.array(outline).reshape(-1, 2) - (x1, y1)) - 0.5
        if len(points) >= 3:
            pen.polygon(points.round().ravel().tolist(), fill=255)
    return bitmap.reduce(finer)


def _blur(line: int) -> float:
    return max(0.7, 0.5 * line)


@lru_cache(maxsize=64)
def _ramps(line: int, rim: int) -> tuple[list[int], list[int]]:
    """Return lookup tables from a blurred mask, 0..255, to the opacity of the dark rim and of the colour, 0..255.

    Across a straight edge, the blurred mask is the normal distribution's CDF of the distance to the edge.
    """
    distance = [_blur(line) * NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)]
    # A stroke of an odd width is centred on the mask's outermost pixels, one of an even width on its edge.
    middle = 0.5 * (line % 2)
    stroke = [_unit(line / 2 + 0.5 - abs(inside - middle)) for inside in distance]
    dark = [_RIM * _unit(line / 2 + rim + 0.5 + min(inside, 0.0)) * (inside < line / 2) for inside in distance]
    tint = [max(on_line, _FILL * _unit(inside + 0.5)) for on_line, inside in zip(stroke, distance, strict=True)]
    # Level 0 is far outside, however narrow the blur is.
    return [0, *(round(255 * alpha) for alpha in dark[1:])], [0, *(round(255 * alpha) for alpha in tint[1:])]


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _draw_box(picture: Image.Image, item: Item, style: Style) -> None:
    radius = 2 * style.line
    if item.prediction.mask is not None:
        # The contour already shows the object: a thick box would only hide others in a crowd.
        paste_frame(picture, item.rect, max(1, style.line // 2), radius, item.colour, alpha=0.8)
        return
    outer = _grown(item.rect, style.line // 2, picture.size)
    rimmed = _grown(outer, style.rim, picture.size)
    paste_frame(picture, rimmed, style.line + 2 * style.rim, radius + style.rim, palette.BLACK, alpha=_RIM)
    paste_frame(picture, outer, style.line, radius, item.colour)


def _draw_tags(picture: Image.Image, items: Sequence[Item], style: Style, taken: Sequence[Rect]) -> None:
    forms = [tag_forms(item, style, picture.width) for item in items]
    requests = [
        TagRequest(
            _grown(item.rect, style.line // 2, picture.size), tuple(text_style.tag(text) for text, text_style in choice)
        )
        for item, choice in zip(items, forms, strict=True)
    ]
    for item, choice, placement in zip(items, forms, place_tags(requests, picture.size, taken), strict=True):
        if placement is not None:
            text, text_style = choice[placement.form]
            colour = palette.colour(item.prediction.class_id)
            paste_rounded(picture, placement.rect, round(0.25 * text_style.em), colour)
            text_style.write(picture, placement.rect[0] + text_style.pad, placement.rect[1], text, palette.ink(colour))


def _grown(rect: Rect, by: int, size: tuple[int, int]) -> Rect:
    return max(rect[0] - by, 0), max(rect[1] - by, 0), min(rect[2] + by, size[0]), min(rect[3] + by, size[1])


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])
