"""Detection and segmentation: find every object, by Faster R-CNN or Mask R-CNN.

Images are resized one by one as they arrive. Fine-tuned models share the built-in network's backbone and proposals, so
a batch may mix models (finetuned/detector.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foursight.models import coco
from foursight.models.engines import devices
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.results import Card, Predictions
from foursight.models.tasks import ssd_forward, tiles
from foursight.models.tasks.masks import paste
from foursight.models.tasks.objects import Batch, Detector, ObjectNetwork, PreparedImage, RawDetections, Request
from foursight.models.tasks.variants import Variants
from foursight.schema.options import DetectOptions, SegmentOptions


@dataclass(frozen=True)
class Rcnn:
    """A detection or segmentation task."""

    network: ObjectNetwork
    published: Detector
    options: type[DetectOptions]

    @property
    def card(self) -> Card:
        """Card of the built-in model."""
        return self.published.card

    def install(self, name: str, folder: Path) -> Callable[[], None]:
        """Add or replace a fine-tuned model, read from its folder. Returns a function that undoes it.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and then changes nothing.
        """
        # PyTorch is imported for fine-tuned models only.
        import torch  # noqa: PLC0415

        from foursight.models.finetuned import detector  # noqa: PLC0415

        task = "segment" if issubclass(self.options, SegmentOptions) else "detect"
        spec, heads = detector.load(name, folder, task, self.network.shared)
        card = replace(self.card, name=name, labels=spec.labels, **devices.count_parameters(heads))
        class_ids = (0, *(spec.category_ids or range(len(card.labels))))
        names = ("background", *card.labels)
        tuned = detector.serve(heads, torch.device(self.card.device))
        return self._variants.add(Detector(card, class_ids, names, tuned))

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
        return self.network.short_side

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> PreparedImage:
        """Resize an image; `size` is the (width, height) of the original if the image was reduced."""
        width, height = size or image.size
        return PreparedImage(self.network.prepare(image), (height, width))

    def prepare_views(
        self, image: Image.Image, request: Request, size: tuple[int, int] | None = None
    ) -> list[PreparedImage]:
        """Prepare the image and, with the option `tiles`, its tiles."""
        if request.options.tiles == 1:
            return [self.prepare(image, size)]
        width, height = size or image.size
        x, y = image.width / width, image.height / height
        found = []
        for x1, y1, x2, y2 in tiles.views((width, height), request.options.tiles):
            part = image.crop((round(x1 * x), round(y1 * y), round(x2 * x), round(y2 * y)))
            found.append(PreparedImage(self.network.prepare(part), (y2 - y1, x2 - x1), (y1, x1)))
        return found

    def predict(self, batch: Batch) -> list[RawDetections]:
        """Run the network."""
        return [
            replace(found, origin=image.origin)
            for found, (image, _) in zip(self.network.detect(batch), batch, strict=True)
        ]

    def join(self, outputs: list[RawDetections], request: Request) -> RawDetections:
        """Join the outputs for the views of an image."""
        return tiles.join(outputs, request.options.max_detections)

    def finish(self, output: RawDetections, request: Request) -> Predictions:
        """Look up class ids and labels, and paste the masks into the original image."""
        indices, detector = output.indices.tolist(), request.model
        return Predictions(
            class_ids=np.array([detector.class_ids[index] for index in indices], dtype=np.int64),
            labels=tuple(detector.names[index] for index in indices),
            scores=output.scores,
            boxes=output.boxes,
            masks=None if output.masks is None else paste(output.masks, output.boxes, output.size),
        )

    @cached_property
    def _variants(self) -> Variants[Detector]:
        return Variants(self.published)


def load_tiny(name: str, options: type[DetectOptions], device: str, precision: PrecisionConfig) -> Rcnn:
    """Load a task of the tiny profile. Raises WeightsError, PrecisionError."""
    masks = issubclass(options, SegmentOptions)
    target = devices.resolve(device)
    network = ssd_forward.load(masks, target, precision)
    parts = [network.scene, *([network.outlines] if network.outlines else [])]
    card = Card(
        name=name,
        profile="tiny",
        labels=tuple(label for _, label in coco.CATEGORIES),
        input_size=f"{FINE_SIDE}x{FINE_SIDE}",
        device=target,
        dtype="+".join(sorted({part.dtype for part in parts})),
        parameters=sum(part.facts["parameters"] for part in parts),
        bytes=sum(part.facts["bytes"] for part in parts),
    )
    class_ids = (0, *(number for number, _ in coco.CATEGORIES))
    return Rcnn(network, Detector(card, class_ids, ("background", *card.labels)), options)


def of_torchvision(
    name: str,
    network: Any,
    categories: Sequence[str],
    options: type[DetectOptions],
    device: str,
    precision: PrecisionConfig = FLOAT32,
) -> Rcnn:
    """Make a task of torchvision's network, with weights, whose class indices are COCO category ids.

    `categories` are their names by id; those that COCO does not use are "N/A". Raises PrecisionError.
    """
    from foursight.models.tasks import rcnn_forward  # noqa: PLC0415

    target, size = devices.resolve(device), devices.count_parameters(network)
    found = rcnn_forward.load(network, target, precision)
    names = tuple(categories)
    card = Card(
        name=name,
        profile="standard",
        labels=tuple(label for label in names[1:] if label != "N/A"),
        input_size=f"{network.transform.min_size[-1]}..{network.transform.max_size}",
        device=target,
        dtype=found.dtype,
        **size,
    )
    return Rcnn(found, Detector(card, tuple(range(len(names))), names), options)
