"""A panel in a corner of the image: labels without a box, with percentages and bars."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foursight.drawing import palette
from foursight.drawing.layout import Rect, overlap
from foursight.drawing.text import TextStyle, paste_rounded, tag_text
from foursight.schema import Prediction

_GROUND, _OPACITY = (16, 18, 23), 0.74
_TRACK_OPACITY = 0.22


def draw_panel(
    picture: Image.Image, predictions: Sequence[Prediction], boxes: Sequence[Rect], text_style: TextStyle
) -> Rect | None:
    """Draw as many of `predictions` (best first) as fit, in the corner that hides least of `boxes`.

    Returns the bounds of the panel, or None if the image is too small for a single row.
    """
    em, height = text_style.em, text_style.height
    margin, pad, bar = round(0.5 * em), round(0.6 * em), max(2, round(0.22 * em))
    drop = height + round(0.1 * em)  # from a row's top to its bar
    row, gap = drop + bar + round(0.3 * em), em
    shares = [f"{100 * prediction.score:.1f} %" for prediction in predictions]
    share_width = max(map(text_style.width, shares))

    if min(picture.size) < 12 * em:
        margin, pad, gap = margin // 2, pad // 2, gap // 2
    room = min(picture.width - 2 * margin, max(picture.width // 2, 14 * em)) - 2 * pad
    labels = [
        text_style.shorten(tag_text(prediction.label, prediction.class_id), room - gap - share_width)
        for prediction in predictions
    ]
    width = max(map(text_style.width, labels)) + gap + share_width
    fit = (picture.height - 2 * margin - 2 * pad) // row
    # Beyond its first row, the panel takes at most three fifths of the height, so that the image stays visible.
    rows = min(len(labels), fit, max(1, (picture.height * 3 // 5 - 2 * pad) // row))
    if rows < 1 or width > room:
        return None
    rect = _corner(picture.size, (width + 2 * pad, rows * row + 2 * pad - round(0.1 * em)), margin, boxes)
    paste_rounded(picture, rect, round(0.45 * em), _GROUND, alpha=_OPACITY)
    left, top = rect[0] + pad, rect[1] + pad - round(0.1 * em)
    for prediction, label, share in zip(predictions[:rows], labels, shares, strict=False):
        text_style.write(picture, left, top, label, palette.WHITE)
        text_style.write(picture, left + width - text_style.width(share), top, share, palette.WHITE)
        _draw_bar(picture, (left, top + drop, left + width, top + drop + bar), prediction)
        top += row
    return rect


def _draw_bar(picture: Image.Image, rect: Rect, prediction: Prediction) -> None:
    x1, y1, x2, y2 = rect
    radius = (y2 - y1) // 2
    paste_rounded(picture, rect, radius, palette.WHITE, alpha=_TRACK_OPACITY)
    filled = round((x2 - x1) * min(max(prediction.score, 0.0), 1.0))
    if filled:
        paste_rounded(picture, (x1, y1, x1 + filled, y2), radius, palette.colour(prediction.class_id))


def _corner(size: tuple[int, int], panel: tuple[int, int], margin: int, boxes: Sequence[Rect]) -> Rect:
    left, top = margin, margin
    right, bottom = size[0] - margin - panel[0], size[1] - margin - panel[1]
    corners = [
        (x, y, x + panel[0], y + panel[1]) for x, y in ((left, bottom), (right, bottom), (left, top), (right, top))
    ]
    hidden = overlap(np.array(corners), np.array(boxes, dtype=np.int64).reshape(-1, 4)).sum(axis=1)
    return corners[int(hidden.argmin())]
