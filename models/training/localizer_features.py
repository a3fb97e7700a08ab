"""Training views for the localizer, with the largest object in each, and the frozen backbone's features of them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from foursight.models.networks.localizer import Localizer
from foursight.models.networks.presets import PRESETS, SQUARE_SIDE
from foursight.models.training.detection_data import AnnotatedImage

GREY = 127


@dataclass(frozen=True)
class Features:
    """Features of V views: float16 maps, the box of the largest object, xyxy in 0..1, float32 [V, 4].

    `mains` has the index of that object, `images` the image of each view.
    """

    middle: Tensor
    semantic: Tensor
    boxes: Tensor
    mains: list[int]
    images: list[AnnotatedImage]

    def at(self, rows: Tensor) -> "Features":
        """Return some of the views."""
        picked = rows.tolist()
        return Features(
            self.middle[rows],
            self.semantic[rows],
            self.boxes[rows],
            [self.mains[row] for row in picked],
            [self.images[row] for row in picked],
        )


@torch.inference_mode()
def extract(localizer: Localizer, images: list[AnnotatedImage], windows: int, chance: random.Random) -> Features:
    """Return the features of all views of the images: each whole, flipped, and in random windows."""
    device = next(localizer.parameters()).device
    middles, semantics, boxes, mains, owners = [], [], [], [], []
    for image in images:
        seen = list(views(image, windows, chance))
        # Small batches: on two cores a view took 82 ms in a batch of 16 and 64 ms alone.
        for start in range(0, len(seen), 4):
            pixels = _pixels([view.image for view in seen[start : start + 4]]).to(device)
            middle, semantic = localizer.features(pixels)
            middles.append(middle.half().contiguous().cpu())
            semantics.append(semantic.half().contiguous().cpu())
        boxes += [view.box for view in seen]
        mains += [view.main for view in seen]
        owners += [image] * len(seen)
    return Features(torch.cat(middles), torch.cat(semantics), torch.stack(boxes), mains, owners)


def _pixels(images: list[Image.Image]) -> Tensor:
    pixels = torch.stack([pil_to_tensor(image) for image in images]).float()
    return ((pixels - PRESETS["tiny"].mean[0]) / PRESETS["tiny"].std[0]).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class View:
    """A part of an image stretched to a square, with the largest object in it: xyxy in 0..1 of the square."""

    image: Image.Image
    main: int
    box: Tensor


def views(annotated: AnnotatedImage, windows: int, chance: random.Random) -> Iterator[View]:
    """Yield the whole image, its mirror image, and `windows` random windows."""
    image, boxes = annotated.image(), annotated.boxes()
    whole = _window(image, boxes, (0, 0), image.size)
    yield whole
    yield _mirror(whole)
    for _ in range(windows):
        view = _random_window(image, boxes, chance)
        yield _mirror(view) if chance.random() < 0.5 else view


def _random_window(image: Image.Image, boxes: Tensor, chance: random.Random) -> View:
    """Return a window with .45 to 1.25 of the image's sides, in different light.

    It is the whole image if no window with a main object is found.
    """
    for _ in range(20):
        scale, shape = chance.uniform(0.45, 1.25), chance.uniform(0.86, 1.16)
        width, height = int(image.width * scale * shape), int(image.height * scale / shape)
        left = int(chance.uniform(min(0, image.width - width), max(0, image.width - width)))
        top = int(chance.uniform(min(0, image.height - height), max(0, image.height - height)))
        view = _window(image, boxes, (left, top), (width, height))
        visible = float(areas(view.box)) * width * height
        if float(areas(view.box)) >= 0.06 and visible >= 0.4 * float(areas(boxes[view.main])):
            break
    else:
        view = _window(image, boxes, (0, 0), image.size)
    lit = view.image
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        lit = enhance(lit).enhance(chance.uniform(0.7, 1.3))
    return View(lit, view.main, view.box)


def _window(image: Image.Image, boxes: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> View:
    """Return a part of an image, given in pixels; it is grey outside the image."""
    (left, top), (width, height) = corner, size
    canvas = Image.new("RGB", (width, height), (GREY,) * 3)
    canvas.paste(image, (-left, -top))
    seen = (boxes - torch.tensor([left, top, left, top])) / torch.tensor([width, height, width, height])
    seen = seen.clamp(0, 1)
    main = int(areas(seen).argmax())
    return View(canvas.resize((SQUARE_SIDE, SQUARE_SIDE), Image.Resampling.BILINEAR), main, seen[main])


def _mirror(view: View) -> View:
    x1, y1, x2, y2 = view.box
    return View(ImageOps.mirror(view.image), view.main, torch.stack((1 - x2, y1, 1 - x1, y2)))


def areas(boxes: Tensor) -> Tensor:
    """Return the areas of boxes [..., 4], float [...]."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)
