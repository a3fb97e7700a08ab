"""Classification: what is in the photo, by ImageNet-1k labels."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from foursight.models import backbone, devices, engine, labels
from foursight.models.options import ClassifyOptions
from foursight.models.results import Card, Predictions, Profile

PUBLISHED = backbone.PUBLISHED


def load(profile: Profile, device: str) -> "Classification":
    """Load the classifier of a profile. Raises WeightsError."""
    place = devices.resolve(device)
    base = backbone.load(profile)
    devices.place(base.network, place)
    card = Card(
        name=base.name,
        profile=profile,
        labels=tuple(label for _, label in labels.imagenet()),
        input_size=f"{base.crop}x{base.crop}",
        device=str(place),
        dtype="float32",
        **devices.weigh(base.network),
    )
    run = engine.compile(Dense(base).eval(), *backbone.examples(base.crop, place), place)
    # The engine has what it needs of the network; kept here, its weights would be in memory twice.
    return Classification(card, replace(base, network=nn.Identity()), place, run)


class Dense(nn.Module):
    """All that is computed of crops, their normalisation included, so that they cross to an engine as uint8."""

    def __init__(self, base: backbone.Backbone) -> None:
        super().__init__()
        self.network = base.network
        self.normalize = backbone.Normalize(base.mean, base.std)

    def forward(self, crops: Tensor) -> Tensor:
        """Map uint8 [N, crop, crop, 3] to class probabilities, float32 [N, 1000]."""
        network: Any = self.network
        logits: Tensor = network.classify(network.features(self.normalize(crops)).mean((2, 3)))
        return logits.softmax(1)


@dataclass(frozen=True)
class Classification:
    """Softmax over the 1,000 ImageNet classes of the centre crop."""

    card: Card
    base: backbone.Backbone
    device: torch.device
    run: engine.Engine
    options: type[ClassifyOptions] = ClassifyOptions

    def check(self, options: ClassifyOptions) -> None:
        """Raise OptionError (unknown_class) for a class that ImageNet-1k lacks."""
        self._chosen(options)

    @property
    def short_side(self) -> int:
        """As `catalogue.Task` has it: what is left to resize is a half or less, so that nothing can be seen of it."""
        return 2 * self.base.resize

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The centre crop as uint8 [crop, crop, 3]."""
        return self.base.crop_photo(image)

    def predict(self, batch: list[tuple[NDArray[np.uint8], ClassifyOptions]]) -> list[NDArray[np.float32]]:
        """Class probabilities, float32 [1000] for each crop."""
        (probabilities,) = self.run(torch.from_numpy(np.stack([crop for crop, _ in batch])).to(self.device))
        return list(probabilities.cpu().numpy())

    def finish(self, output: NDArray[np.float32], options: ClassifyOptions) -> Predictions:
        """The best `top_k` of the classes asked for, with their WordNet ids."""
        order = np.argsort(-output, kind="stable")
        chosen = self._chosen(options)
        if chosen is not None:
            order = order[np.isin(order, list(chosen))]
        order = order[output[order] >= options.score_threshold][: options.top_k]
        names = labels.imagenet()
        return Predictions(
            class_ids=order.astype(np.int64),
            labels=tuple(names[index][1] for index in order),
            scores=output[order],
            wnids=tuple(names[index][0] for index in order),
        )

    def _chosen(self, options: ClassifyOptions) -> frozenset[int] | None:
        if options.classes is None:
            return None
        return labels.ids_of(options.classes, self.card.labels, range(len(self.card.labels)))
