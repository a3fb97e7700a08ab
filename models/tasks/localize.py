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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models import labels
from foursight.models.engines import blueprints, devices, loader
from foursight.models.engines.loader import LoadedNetwork
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.networks import presets
from foursight.models.networks.presets import SQUARE_SIDE
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks import classify
from foursight.models.tasks import main_object as main_objects
from foursight.models.tasks.main_object import Located, MainObject
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import LocalizeOptions

if TYPE_CHECKING:
    from foursight.models.finetuned.localizer import TunedLocalizer
    from foursight.models.networks.localizer import VotingHead

Floats = NDArray[np.float32]
# Input of the network of the whole image.
SQUARE = f"{SQUARE_SIDE}x{SQUARE_SIDE}"


def published() -> Any:
    """Return the weights of the standard profile."""
    return classify.published()


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> "Localization":
    """Load the localizer of a profile. Raises WeightsError, PrecisionError."""
    target = devices.resolve(device)
    whole = loader.load(blueprints.whole_image(profile), target, precision)
    if profile == "tiny":
        return _load_tiny(whole, target, precision)
    card = Card(
        name=f"{presets.PRESETS[profile].name}-cam",
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=SQUARE,
        device=target,
        dtype=whole.dtype,
        **whole.facts,
    )
    return Localization(_published(card), whole, _activation_boxes)


def _load_tiny(whole: LoadedNetwork, device: str, precision: PrecisionConfig) -> "Localization":
    main_object = main_objects.load(device, precision)
    detector, classifier = main_object.detector.card, main_object.classifier.card
    card = Card(
        name=f"ssd-mobilenet-v2-{classifier.name}",
        profile="tiny",
        labels=classifier.labels,
        input_size=f"{detector.input_size}, {classifier.input_size}",
        device=device,
        dtype="+".join(sorted({*detector.dtype.split("+"), classifier.dtype, whole.dtype})),
        # The classifier's parameters are those of the voting network's backbone.
        parameters=detector.parameters + whole.facts["parameters"],
        bytes=detector.bytes + whole.facts["bytes"],
    )
    return Localization(_published(card), whole, lambda _, boxes: boxes, main_object)


def _activation_boxes(probabilities: Floats, maps: Floats) -> Floats:
    import torch  # noqa: PLC0415

    from foursight.models.networks import cam  # noqa: PLC0415

    found: Floats = cam.boxes(torch.from_numpy(probabilities), torch.from_numpy(maps)).numpy()
    return found


def _published(card: Card) -> "Model":
    return Model(card, wnids=tuple(wnid for wnid, _ in labels.imagenet()))


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
    own: "TunedLocalizer | None" = None
    wnids: tuple[str, ...] | None = None


Request = ResolvedRequest[LocalizeOptions, Model]


@dataclass(frozen=True)
class Localization:
    """The task: class probabilities and one box.

    `whole` is the network of the whole image; `boxes` maps its first two results to boxes [N, 4], xyxy in 0..1. The
    tiny profile has `main_object`, which answers first.
    """

    published: Model
    whole: LoadedNetwork
    boxes: Callable[[Floats, Floats], Floats]
    main_object: MainObject | None = None
    options: type[LocalizeOptions] = LocalizeOptions

    @property
    def card(self) -> Card:
        """Card of the built-in model."""
        return self.published.card

    @property
    def short_side(self) -> int:
        """Shorter side in pixels that a reduced image keeps."""
        return max(2 * SQUARE_SIDE, self.main_object.short_side if self.main_object else 0)

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        # PyTorch is imported for fine-tuned models only.
        from foursight.models.finetuned import localizer  # noqa: PLC0415

        model, tensors, spec = localizer.load(name, folder, *self._built_in)
        model.to(self.card.device)
        weight = devices.Size(
            parameters=sum(value.numel() for value in tensors.values()),
            bytes=sum(value.numel() * value.element_size() for value in tensors.values()),
        )
        card = replace(self.card, name=name, labels=spec.labels, input_size=SQUARE, dtype=self.whole.dtype, **weight)
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
        stretched = np.asarray(image.resize((SQUARE_SIDE, SQUARE_SIDE), Image.Resampling.BILINEAR))
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
        probabilities, found, *maps = self.whole(np.stack([image.pixels for image, _ in batch]))
        boxes = self.boxes(probabilities, found)
        models = [request.model for _, request in batch]
        scores = list(probabilities)
        for own in {id(model): model.own for model in models if model.own}.values():
            rows = [row for row, model in enumerate(models) if model.own is own]
            values, boxes[rows] = own.locate(*(level[rows] for level in maps))
            for row, value in zip(rows, values, strict=True):
                scores[row] = value
        scaled = boxes * np.array([image.size * 2 for image, _ in batch], np.float32)
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

    @cached_property
    def _built_in(self) -> "tuple[VotingHead | None, tuple[str, str] | None]":
        """The voting head, which fine-tuned models may share, and what identifies the weights they are built on."""
        from foursight.models.finetuned.localizer import fingerprint  # noqa: PLC0415
        from foursight.models.networks import localizer  # noqa: PLC0415

        if self.main_object is None:
            return None, None
        network = localizer.load()
        return network.head, fingerprint(network.head, network.backbone)
