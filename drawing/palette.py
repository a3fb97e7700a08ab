"""Colours of classes. They depend on the class id alone, so a class has the same colour in all images and clients.

Ids are spread over hue and lightness of OKLCH (Björn Ottosson, 2020), a perceptually uniform space. RGB is sRGB.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)

# The R2 sequence (Martin Roberts), a golden ratio in two dimensions: consecutive ids, and most pairs of ids, are far
# apart. Hue alone would not suffice: with the golden angle, ids that differ by 21 are only 8 degrees apart.
_HUE_STEP, _LIGHTNESS_STEP = 0.7548776662, 0.5698402910
_FIRST_HUE = 0.94
_LIGHTNESS = (0.66, 0.82)
_CHROMA = 0.19
# Shifts in lightness for the instances of a class, in turn.
_SHIFTS = (0.0, 0.07, -0.07, 0.035, -0.035)

# Ends of the colour scale for quantities: lightness, and hue in degrees (above 360 on purpose).
_DARK, _LIGHT = 0.14, 0.95
_COLD, _HOT = 290, 456


@lru_cache(maxsize=4096)
def colour(class_id: int, instance: int = 0) -> Rgb:
    """Return the colour of a class. `instance`, a count of the class's objects in an image, shifts the lightness."""
    darkest, lightest = _LIGHTNESS
    lightness = darkest + (lightest - darkest) * (class_id * _LIGHTNESS_STEP % 1)
    lightness += _SHIFTS[instance % len(_SHIFTS)]
    return _vivid(lightness, 2 * math.pi * ((_FIRST_HUE + class_id * _HUE_STEP) % 1), _CHROMA)


def _vivid(lightness: float, hue: float, chroma: float) -> Rgb:
    """Return the sRGB colour with this hue and lightness, and the highest possible chroma up to `chroma`."""
    while max(map(abs, (side - 0.5 for side in _linear_rgb(lightness, chroma, hue)))) > 0.5 and chroma > 0:
        chroma -= 0.005
    red, green, blue = (round(255 * _gamma(side)) for side in _linear_rgb(lightness, chroma, hue))
    return red, green, blue


@lru_cache(maxsize=1)
def heat() -> NDArray[np.uint8]:
    """Return 256 colours for a quantity, uint8 [256, 3], from near black through violet and orange to light yellow.

    Lightness increases in even steps, so equal differences look equal, in greyscale too.
    """
    colours = []
    for step in range(256):
        share = step / 255
        hue = math.radians(_COLD + (_HOT - _COLD) * share)
        colours.append(_vivid(_DARK + (_LIGHT - _DARK) * share, hue, 0.2 * math.sin(math.pi * (0.12 + 0.68 * share))))
    return np.array(colours, dtype=np.uint8)


def ink(background: Rgb) -> Rgb:
    """Return black or white, whichever has more contrast with `background`: at least 4.58."""
    return max(BLACK, WHITE, key=lambda text: contrast(text, background))


def contrast(one: Rgb, other: Rgb) -> float:
    """Return the contrast ratio of two colours, 1..21, as WCAG 2.2 defines it. Text needs at least 4.5."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Rgb) -> float:
    red, green, blue = (_degamma(side / 255) for side in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear_rgb(lightness: float, chroma: float, hue: float) -> tuple[float, float, float]:
    a, b = chroma * math.cos(hue), chroma * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(linear: float) -> float:
    linear = min(max(linear, 0.0), 1.0)
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _degamma(side: float) -> float:
    return side / 12.92 if side <= 0.04045 else float(((side + 0.055) / 1.055) ** 2.4)
