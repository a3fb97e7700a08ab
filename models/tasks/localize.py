"""Localization: find the main object, with the labels of ImageNet-1k or of a fine-tuned model.

    tiny        detector and classifier (main_object.py)
                where the detector finds nothing, and for fine-tuned models: voting network, whole image
    standard    class activation map, whole image

A batch may mix models: the detector, the classifier and the network of the whole image each run once, for the images
that need them. Fine-tuned models share that network's backbone, and each head sees its rows of the resulting maps.
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
from foursight.models.tasks import main_object as main_objects
from foursight.models.tasks.main_object import Located, MainObject
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import LocalizeOptions

PUBLISHED = backbone.PUBLISHED
# Input of the network of the whole image.
SQUARE = f"{localizer.INPUT_SIZE}x{localizer.INPUT_SIZE}"


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> "Localization":
    """Load the localizer of a profile. Raises WeightsError."""
    return _load_tiny(device, precision) if profile == "tiny" else _load_standard(device, precision)


def _load_tiny(device: str, precision: PrecisionConfig) -> "Localization":
    target = devices.resolve(device)
    main_object = main_objects.load(device, precision)
    detector, classifier = main_object.detector.card, main_object.classifier.card
    base: Any = main_object.classifier.base
    network = localizer.load(base.network)
    shared = finetuned_localizer.fingerprint(network.head, network.backbone)
    run = _compile(base, network, target, precision)
    whole = devices.count_parameters(network)
    card = Card(
        name=f"ssd-mobilenet-v2-{base.name}",
        profile="tiny",
        labels=classifier.labels,
        input_size=f"{detector.input_size}, {classifier.input_size}",
        device=str(target),
        dtype="+".join(sorted({*detector.dtype.split("+"), classifier.dtype, run.dtype})),
        # The classifier's parameters are those of the voting network's backbone.
        parameters=detector.parameters + whole["parameters"],
        bytes=detector.bytes + whole["bytes"],
    )
    return Localization(_published(card), run, lambda _, boxes: boxes, target, main_object, network.head, shared)


def _load_standard(device: str, precision: PrecisionConfig) -> "Localization":
    target = devices.resolve(device)
    base = backbone.load("standard")
    network = cam.ActivationMaps(base.network)
    run = _compile(base, network, target, precision)
    card = Card(
        name=f"{base.name}-cam",
        profile="standard",
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=SQUARE,
        device=str(target),
        dtype=run.dtype,
        **devices.count_parameters(network),
    )
    return Localization(_published(card), run, cam.boxes, target)


def _compile(
    base: backbone.Backbone, network: nn.Module, target: torch.device, precision: PrecisionConfig
) -> engine.Engine:
    devices.move_to(network, target)
    return engine.compile(
        Dense(base, network).eval(),
        *backbone.examples(localizer.INPUT_SIZE, target),
        target,
        # With the backbone in int8 and the rest in float32, the mean IoU with float32's boxes was .75.
        FLOAT32 if precision.dtype == "int8" else precision,
    )


def _published(card: Card) -> "Model":
    return Model(card, wnids=tuple(wnid for wnid, _ in labels.imagenet()))


class Dense(nn.Module):
    """The network of the whole image on an engine: all but the search in an activation map, whose steps vary."""

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
    """An input: `pixels` uint8 [S, S, 3], stretched to a square; `size` is the original (width, height).

    `main` is the tiny profile's input for detector and classifier.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    main: main_objects.PreparedImage | None


@dataclass(frozen=True)
class Model:
    """One model: `own` is the fine-tuned part, None for the built-in model, whose labels have `wnids`."""

    card: Card
    own: TunedLocalizer | None = None
    wnids: tuple[str, ...] | None = None


Request = ResolvedRequest[LocalizeOptions, Model]


@dataclass(frozen=True)
class Localization:
    """The task: class probabilities and one box.

    `run` is `Dense` on its engine; `boxes` maps its first two results to boxes [N, 4], xyxy in 0..1. The tiny profile
    has `main_object`, which answers first, and `votes`, the voting head; `shared` identifies the weights that
    fine-tuned models are built on.
    """

    published: Model
    run: engine.Engine
    boxes: Callable[[Tensor, Tensor], Tensor]
    device: torch.device
    main_object: MainObject | None = None
    votes: VotingHead | None = None
    shared: tuple[str, str] | None = None
    options: type[LocalizeOptions] = LocalizeOptions

    @property
    def card(self) -> Card:
        """Card of the built-in model."""
        return self.published.card

    @property
    def short_side(self) -> int:
        """Shorter side in pixels that a reduced image keeps."""
        return max(2 * localizer.INPUT_SIZE, self.main_object.short_side if self.main_object else 0)

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        model, tensors, spec = finetuned_localizer.load(name, folder, self.votes, self.shared)
        devices.move_to(model, self.device)
        weight = devices.Size(
            parameters=sum(value.numel() for value in tensors.values()),
            bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
        )
        card = replace(self.card, name=name, labels=spec.labels, input_size=SQUARE, dtype=self.run.dtype, **weight)
        return self._variants.add(Model(card, model))

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
        """Resize an image; `size` is the (width, height) of the original if the image was reduced."""
        side = localizer.INPUT_SIZE
        stretched = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
        main = self.main_object.prepare(image, size) if self.main_object else None
        return PreparedImage(stretched, size or image.size, main)

    def predict(self, batch: list[tuple[PreparedImage, Request]]) -> list[Located]:
        """Return class probabilities and a box for each image."""
        found = self._main_objects(batch)
        others = [row for row in range(len(batch)) if row not in found]
        if others:
            found |= zip(others, self._from_whole([batch[row] for row in others]), strict=True)
        return [found[row] for row in range(len(batch))]

    def _main_objects(self, batch: list[tuple[PreparedImage, Request]]) -> dict[int, Located]:
        """Return what detector and classifier find for the built-in model, by row of the batch."""
        inputs = {row: image.main for row, (image, request) in enumerate(batch) if image.main and not request.model.own}
        if self.main_object is None or not inputs:
            return {}
        found = zip(inputs, self.main_object.predict(list(inputs.values())), strict=True)
        return {row: located for row, located in found if located}

    def _from_whole(self, batch: list[tuple[PreparedImage, Request]]) -> list[Located]:
        """Return what the network of the whole image finds."""
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
