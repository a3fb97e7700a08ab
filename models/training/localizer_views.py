"""What the localizer learns from: views of photos, with the largest object in each."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from foursight.models.networks.localizer import INPUT_SIZE
from foursight.models.training.data import Photo


@dataclass(frozen=True)
class View:
    """A stretched square of a photo, with the largest object in it: xyxy in 0..1 of the square."""

    image: Image.Image
    main: int
    box: Tensor


def views(photo: Photo, windows: int, chance: random.Random) -> Iterator[View]:
    """The whole photo, its mirror image, and so many random windows, each with the object that is largest in it."""
    image, boxes = photo.image(), photo.boxes()
    whole = _window(image, boxes, (0, 0), image.size)
    yield whole
    yield _mirror(whole)
    for _ in range(windows):
        view = _jitter(image, boxes, chance)
        yield _mirror(view) if chance.random() < 0.5 else view


def _jitter(image: Image.Image, boxes: Tensor, chance: random.Random) -> View:
    """A window of .45 to 1.25 times the photo's sides, in another light; the whole photo if no main object is found."""
    for _ in range(20):
        scale, shape = chance.uniform(0.45, 1.25), chance.uniform(0.86, 1.16)
        width, height = int(image.width * scale * shape), int(image.height * scale / shape)
        left = int(chance.uniform(min(0, image.width - width), max(0, image.width - width)))
        top = int(chance.uniform(min(0, image.height - height), max(0, image.height - height)))
        view = _window(image, boxes, (left, top), (width, height))
        seen = _area(view.box) * width * height
        if _area(view.box) >= 0.06 and seen >= 0.4 * _area(boxes[view.main]):
            break
    else:
        view = _window(image, boxes, (0, 0), image.size)
    lit = view.image
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        lit = enhance(lit).enhance(chance.uniform(0.7, 1.3))
    return View(lit, view.main, view.box)


def _window(image: Image.Image, boxes: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> View:
    """Part of a photo in pixels, grey where it reaches over the border, stretched to the input's square."""
    (left, top), (width, height) = corner, size
    canvas = Image.new("RGB", (width, height), (127, 127, 127))
    canvas.paste(image, (-left, -top))
    seen = (boxes - torch.tensor([left, top, left, top])) / torch.tensor([width, height, width, height])
    seen = seen.clamp(0, 1)
    main = int(areas(seen).argmax())
    return View(canvas.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BILINEAR), main, seen[main])


def _mirror(view: View) -> View:
    x1, y1, x2, y2 = view.box
    return View(ImageOps.mirror(view.image), view.main, torch.stack((1 - x2, y1, 1 - x1, y2)))


def _area(box: Tensor) -> float:
    return float(areas(box))


def areas(boxes: Tensor) -> Tensor:
    """The areas of boxes [..., 4] in the unit of their frame, float [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
