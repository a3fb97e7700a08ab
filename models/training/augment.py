"""Random views for training a classifier, decided by seed, epoch and sample alone, in whichever thread."""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import ImageEnhance, ImageOps

from foursight.models.networks.backbone import Backbone
from foursight.models.training.classification_data import Sample
from foursight.models.training.features import View

# The window's share of the image's area and its aspect ratio (Szegedy et al. 2014, milder for small sets).
AREA = (0.4, 1.0)
ASPECT_RATIO = (3 / 4, 4 / 3)
LIGHT = (0.7, 1.3)


def random_views(base: Backbone, seed: int) -> View:
    """Return views uint8 [crop, crop, 3]: a random window, flipped or not, in different light."""

    def view(sample: Sample, epoch: int) -> NDArray[np.uint8]:
        chance = random.Random(f"{seed} {epoch} {sample.key}")
        image = sample.image()
        side = (base.view.crop, base.view.crop)
        window = image.resize(side, base.view.resample, box=_window(image.size, chance))
        if chance.random() < 0.5:
            window = ImageOps.mirror(window)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            window = enhance(window).enhance(chance.uniform(*LIGHT))
        return np.asarray(window)

    return view


def _window(size: tuple[int, int], chance: random.Random) -> tuple[float, float, float, float]:
    width, height = size
    area, ratio = chance.uniform(*AREA) * width * height, chance.uniform(*ASPECT_RATIO)
    w, h = min(width, (area * ratio) ** 0.5), min(height, (area / ratio) ** 0.5)
    left, top = chance.uniform(0, width - w), chance.uniform(0, height - h)
    return left, top, left + w, top + h
