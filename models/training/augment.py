"""Random views of a photo for training. Each is decided by seed, epoch and photo alone, whatever thread makes it."""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import ImageEnhance, ImageOps

from foursight.models.networks.backbone import Backbone
from foursight.models.training.dataset import Sample
from foursight.models.training.features import View

# Share of the photo's area that a window keeps, and its proportions (Szegedy et al. 2014, milder for small sets).
AREA = (0.4, 1.0)
PROPORTION = (3 / 4, 4 / 3)
LIGHT = (0.7, 1.3)


def views(base: Backbone, seed: int) -> View:
    """Views with a random window, mirrored or not, in another light, uint8 [crop, crop, 3]."""

    def view(sample: Sample, epoch: int) -> NDArray[np.uint8]:
        chance = random.Random(f"{seed} {epoch} {sample.key}")
        image = sample.image()
        side = (base.crop, base.crop)
        seen = image.resize(side, base.resample, box=_window(image.size, chance))
        if chance.random() < 0.5:
            seen = ImageOps.mirror(seen)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            seen = enhance(seen).enhance(chance.uniform(*LIGHT))
        return np.asarray(seen)

    return view


def _window(size: tuple[int, int], chance: random.Random) -> tuple[float, float, float, float]:
    width, height = size
    area, proportion = chance.uniform(*AREA) * width * height, chance.uniform(*PROPORTION)
    w, h = min(width, (area * proportion) ** 0.5), min(height, (area / proportion) ** 0.5)
    left, top = chance.uniform(0, width - w), chance.uniform(0, height - h)
    return left, top, left + w, top + h
