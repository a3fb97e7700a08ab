"""Localization: the one main object, label and box."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from foursight.models import backbone, cam, devices, engine, labels, localizer
from foursight.models.options import LocalizeOptions
from foursight.models.results import Card, Predictions, Profile

PUBLISHED = backbone.PUBLISHED


def load(profile: Profile, device: str) -> "Localization":
    """Load the localizer of a profile. Raises WeightsError."""
    place = devices.resolve(device)
    base = backbone.load(profile)
    network = localizer.load() if profile == "tiny" else cam.ActivationMaps(base.network)
    devices.place(network, place)
    card = Card(
        name=f"{base.name}-{'voting' if profile == 'tiny' else 'cam'}",
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=f"{localizer.INPUT_SIZE}x{localizer.INPUT_SIZE}",
        device=str(place),
        dtype="float32",
        **devices.weigh(network),
    )
    run = engine.compile(Dense(base, network).eval(), *backbone.examples(localizer.INPUT_SIZE, place), place)
    return Localization(card, run, (lambda _, boxes: boxes) if profile == "tiny" else cam.boxes, place)


class Dense(nn.Module):
    """All that is computed of photos but the search in an activation map, which has no fixed number of steps."""

    def __init__(self, base: backbone.Backbone, network: nn.Module) -> None:
        super().__init__()
        self.normalize = backbone.Normalize(base.mean, base.std)
        self.network = network

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [N, S, S, 3] to class probabilities [N, 1000], and to the boxes or maps that the network gives."""
        logits, found = self.network(self.normalize(photos))
        return logits.softmax(1), found


@dataclass(frozen=True)
class Stretched:
    """A photo on its way in: `pixels` uint8 [S, S, 3], stretched to the square; original `size` (width, height)."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Located:
    """A photo on its way out: `probabilities` float32 [1000], `box` float32 [4] xyxy in pixels of the original."""

    probabilities: NDArray[np.float32]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class Localization:
    """Probabilities and one box for a photo stretched to a square.

    `run` is `Dense` on its engine; `boxes` maps its two tensors to boxes [N, 4], xyxy in 0..1.
    """

    card: Card
    run: engine.Engine
    boxes: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    options: type[LocalizeOptions] = LocalizeOptions
    short_side: int = 2 * localizer.INPUT_SIZE

    def check(self, options: LocalizeOptions) -> None:
        """All options fit."""

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> Stretched:
        """Stretch the photo to the square: nothing of it is cut off."""
        side = localizer.INPUT_SIZE
        return Stretched(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), size or image.size)

    def predict(self, batch: list[tuple[Stretched, LocalizeOptions]]) -> list[Located]:
        """Probabilities and box for each photo."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([photo.pixels for photo, _ in batch])).to(self.device)
            probabilities, found = self.run(pixels)
            sizes = torch.tensor([photo.size * 2 for photo, _ in batch], device=self.device)
            scaled = (self.boxes(probabilities, found) * sizes).cpu().numpy()
            return [Located(*pair) for pair in zip(probabilities.cpu().numpy(), scaled, strict=True)]

    def finish(self, output: Located, options: LocalizeOptions) -> Predictions:
        """The one box, with its best `top_k` labels."""
        order = np.argsort(-output.probabilities, kind="stable")[: options.top_k]
        names = labels.imagenet()
        return Predictions(
            class_ids=order.astype(np.int64),
            labels=tuple(names[index][1] for index in order),
            scores=output.probabilities[order],
            boxes=np.repeat(output.box[None], len(order), axis=0),
            wnids=tuple(names[index][0] for index in order),
        )
