"""Detection and segmentation: find every object, by Faster R-CNN or Mask R-CNN.

Images are resized one by one as they arrive, and images with the same padded shape are computed together. Fine-tuned
models share the built-in network's backbone and proposals, so a batch may mix models (finetuned/detector.py).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from foursight.models import coco
from foursight.models.engines import devices, rcnn
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.finetuned import detector as finetuned_detector
from foursight.models.results import Card, Predictions, Profile
from foursight.models.tasks import rcnn_forward
from foursight.models.tasks.masks import paste
from foursight.models.tasks.rcnn_forward import Detector, PreparedImage, RawDetections, Request
from foursight.models.tasks.variants import Variants
from foursight.schema.options import DetectOptions, SegmentOptions


@dataclass(frozen=True)
class Rcnn:
    """A detection or segmentation task; `shared` identifies the weights that fine-tuned models are built on."""

    network: GeneralizedRCNN
    published: Detector
    device: torch.device
    options: type[DetectOptions]
    shared: str | None

    @property
    def card(self) -> Card:
        """Card of the built-in model."""
        return self.published.card

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        task = "segment" if issubclass(self.options, SegmentOptions) else "detect"
        spec, heads = finetuned_detector.load(name, folder, task, self.shared)
        devices.move_to(heads, self.device)
        card = replace(self.card, name=name, labels=spec.labels, **devices.count_parameters(heads))
        finetuned_detector.share(heads, self.network.roi_heads)
        class_ids, names = (0, *range(len(card.labels))), ("background", *card.labels)
        return self._variants.add(Detector(card, heads, class_ids, names))

    def remove(self, name: str) -> None:
        """Remove a model; requests that were resolved before are still answered by it."""
        self._variants.remove(name)

    def finetuned_cards(self) -> list[Card]:
        """Return the cards of the fine-tuned models; they count only parameters and bytes that are not shared."""
        return self._variants.cards()

    def resolve(self, options: DetectOptions) -> Request:
        """Find the model and the classes that the options name. Raises OptionError (unknown_model, unknown_class)."""
        request = self._variants.resolve(options)
        return replace(request, class_filter=request.model.class_filter(options.classes))

    @property
    def short_side(self) -> int:
        """Shorter side in pixels that a reduced image keeps."""
        return rcnn_forward.short_side(self.network)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> PreparedImage:
        """Normalise and resize an image; `size` is the (width, height) of the original if the image was reduced."""
        width, height = size or image.size
        return PreparedImage(rcnn_forward.to_pixels(self.network, image), (height, width))

    def predict(self, batch: list[tuple[PreparedImage, Request]]) -> list[RawDetections]:
        """Run the network: one pass for all images with the same padded shape.

        Images are not padded to each other's size: convolutions see the padding, so an image's answer would depend on
        the others in the batch.
        """
        groups = defaultdict(list)
        divisor = self.network.transform.size_divisible
        for index, (image, _) in enumerate(batch):
            groups[tuple(-(-side // divisor) for side in image.pixels.shape[1:])].append(index)
        outputs: dict[int, RawDetections] = {}
        with torch.inference_mode():
            for members in groups.values():
                found = rcnn_forward.forward(self.network, [batch[index] for index in members], self.device)
                outputs.update(zip(members, found, strict=True))
        return [outputs[index] for index in range(len(batch))]

    def finish(self, output: RawDetections, request: Request) -> Predictions:
        """Look up class ids and labels, and paste the masks into the original image."""
        indices, detector = output.indices.tolist(), request.model
        return Predictions(
            class_ids=np.array([detector.class_ids[index] for index in indices], dtype=np.int64),
            labels=tuple(detector.names[index] for index in indices),
            scores=output.scores.numpy(),
            boxes=output.boxes.numpy(),
            masks=None if output.masks is None else paste(output.masks, output.boxes, output.size),
        )

    @cached_property
    def _variants(self) -> Variants[Detector]:
        return Variants(self.published)


def load(
    network: GeneralizedRCNN,
    name: str,
    profile: Profile,
    device: str,
    options: type[DetectOptions],
    categories: list[tuple[int, str, bool]],
    precision: PrecisionConfig = FLOAT32,
) -> Rcnn:
    """Build a task from a network: move it to a device, put its dense parts on engines, and describe it.

    `categories` are, for each class index of the network, its COCO category id, its label, and whether it is served.
    Raises PrecisionError.
    """
    target = devices.resolve(device)
    devices.move_to(network, target)
    transform = network.transform
    weight, shared = devices.count_parameters(network), finetuned_detector.shared_weights(network)

    def calibration_images() -> Iterator[Tensor]:
        return (rcnn_forward.to_pixels(network, image) for image in precision.images())

    card = Card(
        name=name,
        profile=profile,
        labels=tuple(label for _, label, served in categories if served),
        input_size="{}x{}".format(*transform.fixed_size)
        if transform.fixed_size
        else f"{transform.min_size[-1]}..{transform.max_size}",
        device=str(target),
        dtype=rcnn.install(network, target, precision, calibration_images),
        **weight,
    )
    class_ids, names = tuple(number for number, _, _ in categories), tuple(label for _, label, _ in categories)
    return Rcnn(network, Detector(card, network.roi_heads, class_ids, names), target, options, shared)


def published_categories(weights: Any) -> list[tuple[int, str, bool]]:
    """Return the categories of torchvision's COCO weights for `load`: their class indices are COCO category ids."""
    names = weights.meta["categories"]
    return [(index, name, index > 0 and name != "N/A") for index, name in enumerate(names)]


def builtin_categories() -> list[tuple[int, str, bool]]:
    """Return the categories of the tiny profile for `load`."""
    return [(0, "background", False), *((number, name, True) for number, name in coco.CATEGORIES)]
