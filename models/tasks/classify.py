"""Classification: label an image, with the labels of ImageNet-1k or of a fine-tuned model.

All models share one backbone, and a batch may mix them: the backbone runs once for all images, and each head on its
rows of the resulting maps. Each model with fine-tuned stages needs its own pass.
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
from foursight.models.networks.presets import CentreCrop
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import ClassifyOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from foursight.models.finetuned.classifier import TunedClassifier
    from foursight.models.networks.backbone import Backbone


def load(profile: Profile, device: str, precision: PrecisionConfig = FLOAT32) -> "Classification":
    """Load the classifier of a profile. Raises WeightsError, PrecisionError."""
    target, preset = devices.resolve(device), presets.PRESETS[profile]
    features = loader.load(blueprints.features(profile), target, precision)
    card = Card(
        name=preset.name,
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=f"{preset.view.crop}x{preset.view.crop}",
        device=target,
        dtype=features.dtype,
        **features.facts,
    )
    # Always in float32: the head, a hundredth of the work, tells small differences apart.
    return Classification(card, preset.view, features, loader.load(blueprints.head(profile), target))


def published() -> Any:
    """Return the weights of the standard profile."""
    from foursight.models.networks import backbone  # noqa: PLC0415

    return backbone.PUBLISHED


@dataclass(frozen=True)
class Classifier:
    """One model: `own` is the fine-tuned part, None for the built-in model, whose labels have `wnids`."""

    card: Card
    own: "TunedClassifier | None" = None
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
    view: CentreCrop
    features: LoadedNetwork
    head: LoadedNetwork
    options: type[ClassifyOptions] = ClassifyOptions

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        # PyTorch is imported for fine-tuned models only.
        from foursight.models.finetuned import classifier  # noqa: PLC0415

        model, spec = classifier.load(name, folder, self.base, self._stages, self._fingerprint)
        devices.move_to(model, self._device)
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
        return self._variants.add(Classifier(card, model))

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

    def network(self, model: str | None) -> "nn.Module":
        """Return a model's network for inspection: that of `base`, or a TunedNetwork. Raises OptionError."""
        from foursight.models.finetuned.classifier import TunedNetwork  # noqa: PLC0415

        own = self.find(model).own
        return self.base.network if own is None else TunedNetwork(self._stages, own)

    @cached_property
    def base(self) -> "Backbone":
        """The network in PyTorch, for fine-tuned models and inspection."""
        from foursight.models.networks import backbone  # noqa: PLC0415

        found = backbone.load(self.card.profile)
        devices.move_to(found.network, self._device)
        return found

    @property
    def short_side(self) -> int:
        """Shorter side that a reduced image keeps: twice what `prepare` resizes it to, which hides the reduction."""
        return 2 * self.view.resize

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the centre crop, uint8 [crop, crop, 3]."""
        return self.view.crop_image(image)

    def predict(self, batch: list[tuple[NDArray[np.uint8], Request]]) -> list[Classified]:
        """Return class probabilities for each crop, by the model of its request."""
        variants = [request.model for _, request in batch]
        rows_of: dict[int, list[int]] = {}
        for row, variant in enumerate(variants):
            # Models without fine-tuned stages share one pass.
            rows_of.setdefault(id(variant.own) if variant.has_stages else 0, []).append(row)
        pixels = np.stack([crop for crop, _ in batch])
        found: dict[int, NDArray[np.float32]] = {}
        for rows in rows_of.values():
            own = variants[rows[0]].own
            mine = pixels if len(rows) == len(batch) else pixels[rows]
            if own and own.stages:
                maps = own.features_of(self.base, self._stages, mine)
            else:
                (maps,) = self.features(mine)
            found |= self._label(maps, rows, variants)
        return [Classified(found[row]) for row in range(len(batch))]

    def _label(
        self, maps: NDArray[np.float32], rows: list[int], variants: list[Classifier]
    ) -> dict[int, NDArray[np.float32]]:
        """Run each head on its rows of `maps` [len(rows), C, h, w]; return probabilities [K] by row of the batch."""
        indices_of: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            indices_of.setdefault(id(variants[row]), []).append(index)
        found: dict[int, NDArray[np.float32]] = {}
        for indices in indices_of.values():
            own = variants[rows[indices[0]]].own
            mine = maps if len(indices) == len(rows) else maps[indices]
            probabilities = own.probabilities(mine) if own else self.head(mine)[0]
            found |= zip((rows[index] for index in indices), probabilities, strict=True)
        return found

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
        return Variants(Classifier(self.card, wnids=tuple(wnid for wnid, _ in labels.imagenet())))

    @cached_property
    def _device(self) -> "torch.device":
        import torch  # noqa: PLC0415

        return torch.device(self.card.device)

    @cached_property
    def _stages(self) -> "nn.ModuleList":
        from foursight.models.networks import stages  # noqa: PLC0415

        return stages.split(self.base.network)

    @cached_property
    def _fingerprint(self) -> str:
        from foursight.models.networks import stages  # noqa: PLC0415

        return stages.fingerprint(self._stages)
