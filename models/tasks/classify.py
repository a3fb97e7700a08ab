"""Classification: label an image, with the labels of ImageNet-1k or of a fine-tuned model.

All models share one backbone, and a batch may mix them: the backbone runs once for all images, and each head on its
rows of the resulting maps. Each model with fine-tuned stages needs its own pass.
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
from foursight.models.finetuned import classifier
from foursight.models.finetuned.classifier import TunedClassifier, TunedNetwork
from foursight.models.networks import backbone, stages
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import ClassifyOptions

PUBLISHED = backbone.PUBLISHED


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> "Classification":
    """Load the classifier of a profile. Raises WeightsError, PrecisionError."""
    target = devices.resolve(device)
    base = backbone.load(profile)
    devices.move_to(base.network, target)
    features = engine.compile(
        Dense(base).eval(),
        *backbone.examples(base.crop, target),
        target,
        precision,
        lambda: [(torch.tensor(base.crop_image(image))[None],) for image in precision.images()],
    )
    card = Card(
        name=base.name,
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=f"{base.crop}x{base.crop}",
        device=str(target),
        dtype=features.dtype,
        **devices.count_parameters(base.network),
    )
    return Classification(card, base, target, features)


class Dense(nn.Module):
    """The shared backbone, with the normalisation of its input: images cross to an engine as uint8."""

    def __init__(self, base: backbone.Backbone) -> None:
        super().__init__()
        self.network = base.network
        self.normalize = backbone.Normalize(base.mean, base.std)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, crop, crop, 3] to the last map, float32 [N, C, h, w]."""
        network: Any = self.network
        maps: Tensor = network.features(self.normalize(crops))
        return maps


@dataclass(frozen=True)
class Classifier:
    """One model: `logits` maps the backbone's maps, float [N, C, h, w], to float [N, K].

    `own` is the fine-tuned part, None for the built-in model, whose labels have `wnids`.
    """

    card: Card
    logits: Callable[[Tensor], Tensor]
    own: TunedClassifier | None = None
    wnids: tuple[str, ...] | None = None

    @property
    def has_stages(self) -> bool:
        """Whether some of its backbone stages are fine-tuned."""
        return self.own is not None and len(self.own.stages) > 0

    def class_filter(self, classes: list[str] | None) -> frozenset[int] | None:
        """Return the indices of the named classes, or None for all. Raises OptionError (unknown_class)."""
        return None if classes is None else labels.ids_of(classes, self.card.labels, range(len(self.card.labels)))


Request = ResolvedRequest[ClassifyOptions, Classifier]


@dataclass(frozen=True)
class Classified:
    """Class probabilities of one image, float32 [K]."""

    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Classification:
    """The task: softmax over the classes, for the centre crop."""

    card: Card
    base: backbone.Backbone
    device: torch.device
    features: engine.Engine
    options: type[ClassifyOptions] = ClassifyOptions

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        model, spec = classifier.load(name, folder, self.base, self._stages, self._fingerprint)
        devices.move_to(model, self.device)
        card = Card(
            name=name,
            profile=self.card.profile,
            labels=spec.labels,
            input_size=self.card.input_size,
            device=self.card.device,
            # A model with fine-tuned stages runs entirely in PyTorch.
            dtype="float32" if model.stages else self.card.dtype,
            **devices.count_parameters(model),
        )
        return self._variants.add(Classifier(card, model.head, model))

    def remove(self, name: str) -> None:
        """Remove a model; requests that were resolved before are still answered by it."""
        self._variants.remove(name)

    def finetuned_cards(self) -> list[Card]:
        """Return the cards of the fine-tuned models; they count only parameters and bytes that are not shared."""
        return self._variants.cards()

    def resolve(self, options: ClassifyOptions) -> Request:
        """Find the model and the classes that the options name. Raises OptionError (unknown_model, unknown_class)."""
        request = self._variants.resolve(options)
        return replace(request, class_filter=request.model.class_filter(options.classes))

    def find(self, model: str | None) -> Classifier:
        """Return a model by name, the built-in one for None. Raises OptionError (unknown_model)."""
        return self._variants.find(model)

    def network(self, model: str | None) -> nn.Module:
        """Return a model's network for inspection: that of `base`, or a TunedNetwork. Raises OptionError."""
        own = self.find(model).own
        return self.base.network if own is None else TunedNetwork(self._stages, own)

    @property
    def short_side(self) -> int:
        """Shorter side that a reduced image keeps: twice what `prepare` resizes it to, which hides the reduction."""
        return 2 * self.base.resize

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the centre crop, uint8 [crop, crop, 3]."""
        return self.base.crop_image(image)

    def predict(self, batch: list[tuple[NDArray[np.uint8], Request]]) -> list[Classified]:
        """Return class probabilities for each crop, by the model of its request."""
        variants = [request.model for _, request in batch]
        rows_of: dict[int, list[int]] = {}
        for row, variant in enumerate(variants):
            # Models without fine-tuned stages share one pass.
            rows_of.setdefault(id(variant.own) if variant.has_stages else 0, []).append(row)
        found: dict[int, NDArray[np.float32]] = {}
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([crop for crop, _ in batch])).to(self.device)
            for rows in rows_of.values():
                own = variants[rows[0]].own
                mine = pixels if len(rows) == len(batch) else pixels[rows]
                if own and own.stages:
                    maps = own.features(self._stages, self.base.normalize(mine))
                else:
                    (maps,) = self.features(mine)
                found |= _heads(maps, rows, variants)
        return [Classified(found[row]) for row in range(len(batch))]

    def finish(self, output: Classified, request: Request) -> Predictions:
        """Return the best `top_k` of the wanted classes, with WordNet ids if they are ImageNet's."""
        variant, options, scores = request.model, request.options, output.probabilities
        order = np.argsort(-scores, kind="stable")
        if request.class_filter is not None:
            order = order[np.isin(order, list(request.class_filter))]
        order = order[scores[order] >= options.score_threshold][: options.top_k]
        return Predictions(
            class_ids=order.astype(np.int64),
            labels=tuple(variant.card.labels[index] for index in order),
            scores=scores[order],
            wnids=tuple(variant.wnids[index] for index in order) if variant.wnids else None,
        )

    @cached_property
    def _variants(self) -> Variants[Classifier]:
        network: Any = self.base.network
        wnids = tuple(wnid for wnid, _ in labels.imagenet())
        return Variants(Classifier(self.card, lambda maps: network.classify(maps.mean((2, 3))), wnids=wnids))

    @cached_property
    def _stages(self) -> nn.ModuleList:
        return stages.split(self.base.network)

    @cached_property
    def _fingerprint(self) -> str:
        return stages.fingerprint(self._stages)


def _heads(maps: Tensor, rows: list[int], variants: list[Classifier]) -> dict[int, NDArray[np.float32]]:
    """Run each head on its rows of `maps` [len(rows), C, h, w]; return probabilities [K] by row of the batch."""
    indices_of: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        indices_of.setdefault(id(variants[row]), []).append(index)
    found = {}
    for indices in indices_of.values():
        variant = variants[rows[indices[0]]]
        mine = maps if len(indices) == len(rows) else maps[indices]
        for index, values in zip(indices, variant.logits(mine).softmax(1).cpu().numpy(), strict=True):
            found[rows[index]] = values
    return found
