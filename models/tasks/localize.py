"""Localization: find the main object, with the labels of ImageNet-1k or of a fine-tuned model.

All models share one backbone, and a batch may mix them: the backbone runs once for all images, and each head on its
rows of the resulting maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from foursight.models import labels
from foursight.models.engines import devices, engine
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.finetuned import localizer as finetuned_localizer
from foursight.models.finetuned.localizer import TunedLocalizer
from foursight.models.networks import backbone, cam, localizer
from foursight.models.networks.localizer import Localizer, VotingHead
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import LocalizeOptions

PUBLISHED = backbone.PUBLISHED


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> "Localization":
    """Load the localizer of a profile. Raises WeightsError."""
    target = devices.resolve(device)
    base = backbone.load(profile)
    network: Any = localizer.load() if profile == "tiny" else cam.ActivationMaps(base.network)
    own = isinstance(network, Localizer)
    shared = finetuned_localizer.fingerprint(network.head, network.backbone) if own else None
    devices.move_to(network, target)
    run = engine.compile(
        Dense(base, network).eval(),
        *backbone.examples(localizer.INPUT_SIZE, target),
        target,
        # With the backbone in int8 and the rest in float32, the mean IoU with float32's boxes was .75.
        FLOAT32 if precision.dtype == "int8" else precision,
    )
    card = Card(
        name=f"{base.name}-{'voting' if profile == 'tiny' else 'cam'}",
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=f"{localizer.INPUT_SIZE}x{localizer.INPUT_SIZE}",
        device=str(target),
        dtype=run.dtype,
        **devices.count_parameters(network),
    )
    published = Model(card, wnids=tuple(wnid for wnid, _ in labels.imagenet()))
    find = (lambda _, boxes: boxes) if own else cam.boxes
    return Localization(published, run, find, target, network.head if own else None, shared)


class Dense(nn.Module):
    """What an engine computes: all but the search in an activation map, whose number of steps varies."""

    def __init__(self, base: backbone.Backbone, network: nn.Module) -> None:
        super().__init__()
        self.normalize = backbone.Normalize(base.mean, base.std)
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 [N, S, S, 3] to class probabilities [N, 1000], and boxes [N, 4] or activation maps [N, 1000, h, w].

        The tiny profile's network also returns the two maps that heads of fine-tuned models read.
        """
        pixels = self.normalize(images)
        if isinstance(self.network, Localizer):
            middle, semantic = self.network.features(pixels)
            logits, found = self.network.locate(middle, semantic)
            return logits.softmax(1), found, middle, semantic
        logits, found = self.network(pixels)
        return logits.softmax(1), found


@dataclass(frozen=True)
class PreparedImage:
    """An input: `pixels` uint8 [S, S, 3], stretched to a square; `size` is the original (width, height)."""

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Model:
    """One model: `own` is the fine-tuned part, None for the built-in model, whose labels have `wnids`."""

    card: Card
    own: TunedLocalizer | None = None
    wnids: tuple[str, ...] | None = None


Request = ResolvedRequest[LocalizeOptions, Model]


@dataclass(frozen=True)
class Located:
    """An output: `probabilities` float32 [K], `box` float32 [4] xyxy in pixels of the original image."""

    probabilities: NDArray[np.float32]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class Localization:
    """The task: class probabilities and one box.

    `run` is `Dense` on its engine; `boxes` maps its first two results to boxes [N, 4], xyxy in 0..1. `votes` is the
    tiny profile's head, and `shared` identifies the weights that fine-tuned models are built on.
    """

    published: Model
    run: engine.Engine
    boxes: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    votes: VotingHead | None
    shared: tuple[str, str] | None
    options: type[LocalizeOptions] = LocalizeOptions
    short_side: int = 2 * localizer.INPUT_SIZE

    @property
    def card(self) -> Card:
        """Card of the built-in model."""
        return self.published.card

    def install(self, name: str, folder: Path) -> None:
        """Add or replace a fine-tuned model, read from its folder.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        model, tensors, spec = finetuned_localizer.load(name, folder, self.votes, self.shared)
        devices.move_to(model, self.device)
        weight = devices.Size(
            parameters=sum(value.numel() for value in tensors.values()),
            bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
        )
        self._variants.add(Model(replace(self.card, name=name, labels=spec.labels, **weight), model))

    def remove(self, name: str) -> None:
        """Remove a model; requests that were resolved before are still answered by it."""
        self._variants.remove(name)

    def finetuned_cards(self) -> list[Card]:
        """Return the cards of the fine-tuned models; they count only parameters and bytes that are not shared."""
        return self._variants.cards()

    def resolve(self, options: LocalizeOptions) -> Request:
        """Find the model that the options name. Raises OptionError (unknown_model)."""
        return self._variants.resolve(options)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> PreparedImage:
        """Stretch an image to the square; `size` is the (width, height) of the original if the image was reduced."""
        side = localizer.INPUT_SIZE
        return PreparedImage(np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)), size or image.size)

    def predict(self, batch: list[tuple[PreparedImage, Request]]) -> list[Located]:
        """Return class probabilities and a box for each image."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([image.pixels for image, _ in batch])).to(self.device)
            probabilities, found, *maps = self.run(pixels)
            boxes = self.boxes(probabilities, found)
            models = [request.model for _, request in batch]
            scores = list(probabilities.cpu().numpy())
            for own in {id(model): model.own for model in models if model.own}.values():
                rows = [row for row, model in enumerate(models) if model.own is own]
                logits, boxes[rows] = own(*(level[rows] for level in maps))
                for row, values in zip(rows, logits.softmax(1).cpu().numpy(), strict=True):
                    scores[row] = values
            sizes = torch.tensor([image.size * 2 for image, _ in batch], device=self.device)
            scaled = (boxes * sizes).cpu().numpy()
            return [Located(*found) for found in zip(scores, scaled, strict=True)]

    def finish(self, output: Located, request: Request) -> Predictions:
        """Return the box once for each of its best `top_k` labels."""
        order = np.argsort(-output.probabilities, kind="stable")[: request.options.top_k]
        model = request.model
        return Predictions(
            class_ids=order.astype(np.int64),
            labels=tuple(model.card.labels[index] for index in order),
            scores=output.probabilities[order],
            boxes=np.repeat(output.box[None], len(order), axis=0),
            wnids=tuple(model.wnids[index] for index in order) if model.wnids else None,
        )

    @cached_property
    def _variants(self) -> Variants[Model]:
        return Variants(self.published)
