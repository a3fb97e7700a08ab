"""Faster R-CNN and Mask R-CNN inference over torchvision's own parts, made for batches of unlike photos.

Faster R-CNN: Ren et al. 2015. Mask R-CNN: He et al. 2017. The arithmetic is that of torchvision's
`GeneralizedRCNN.forward`; what differs is the order of the work. Photos are resized one by one as they arrive, photos
whose padded shape is the same are computed together, the mask head sees only the objects that will be answered, and a
mask is pasted into its box instead of a whole photo.

Fine-tuned models with names of their own share the network up to what judges the proposals: a batch may mix them. Those
with heads of their own are a pass each (models/finetuned/detector.py).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, maskrcnn_inference
from torchvision.models.detection.transform import resize_boxes
from torchvision.transforms.functional import pil_to_tensor

from foursight.models import image as images
from foursight.models import labels
from foursight.models.engines import devices, rcnn
from foursight.models.engines.precision import FLOAT32, PrecisionConfig
from foursight.models.finetuned import detector as finetuned_detector
from foursight.models.finetuned.detector import LabelHead, SharedWeights
from foursight.models.networks import rcnn_tiny
from foursight.models.results import BoxMask, Card, Predictions, Profile
from foursight.models.tasks.variants import ResolvedRequest, Variants
from foursight.schema.options import DetectOptions, SegmentOptions


@dataclass(frozen=True)
class PreparedImage:
    """A photo on its way in: `pixels` float32 [3, h, w], resized and normalised; original `size` (height, width)."""

    pixels: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Detector:
    """One model: the network that it runs on, and what judges proposals where that is not the network's own.

    `class_ids` and `names` give, for each class index, its class id and label; index 0 is background.
    """

    card: Card
    network: GeneralizedRCNN
    class_ids: tuple[int, ...]
    names: tuple[str, ...]
    head: LabelHead | None = None

    def class_filter(self, classes: list[str] | None) -> frozenset[int] | None:
        """The class indices asked for; None: all. Raises OptionError (unknown_class) for one that is not served."""
        if classes is None:
            return None
        served = set(self.card.labels)
        pairs = [(name, index) for index, name in enumerate(self.names) if name in served]
        return labels.ids_of(classes, [name for name, _ in pairs], [index for _, index in pairs])


Request = ResolvedRequest[DetectOptions, Detector]


@dataclass(frozen=True)
class RawDetections:
    """A photo on its way out, on the CPU: what the network found, in pixels of the original.

    `boxes` float32 [N, 4] xyxy, `scores` float32 [N], `indices` int64 [N] into the classes of the model that
    answered (0 is background), `masks` float32 [N, 1, 28, 28] probabilities within each box, or None.
    """

    boxes: Tensor
    scores: Tensor
    indices: Tensor
    masks: Tensor | None
    size: tuple[int, int]


@dataclass(frozen=True)
class Rcnn:
    """A detection or segmentation task over one network; `shared` is what fine-tuned models may stand on."""

    published: Detector
    device: torch.device
    options: type[DetectOptions]
    shared: SharedWeights | None
    precision: PrecisionConfig = FLOAT32

    @property
    def card(self) -> Card:
        """That of the task's own model."""
        return self.published.card

    @property
    def network(self) -> GeneralizedRCNN:
        """That of the task's own model."""
        return self.published.network

    def install(self, name: str, folder: Path) -> None:
        """Serve a fine-tuned model from its folder, in the place of one that has the name already.

        Raises StoreError (unknown_model, model_corrupt, model_mismatch), and serves what it did.
        """
        task = "segment" if issubclass(self.options, SegmentOptions) else "detect"
        tuned = finetuned_detector.load(name, folder, task, self.shared)
        devices.move_to(tuned.own, self.device)
        card = replace(self.card, name=name, labels=tuned.spec.labels, **devices.count_parameters(tuned.own))
        if tuned.network is not None:
            # To calibrate each would take the cores from those who wait for an answer: in the place of int8, float32.
            dtype = rcnn.install(tuned.network, self.device, self.precision)
            card = replace(card, dtype=dtype)
        hidden_classes = ("background", "other")[: tuned.hidden_classes]
        class_ids = (*(0 for _ in hidden_classes), *range(len(card.labels)))
        names = (*hidden_classes, *card.labels)
        self._variants.add(Detector(card, tuned.network or self.network, class_ids, names, tuned.names))

    def remove(self, name: str) -> None:
        """Serve a model no longer; requests that were resolved before are still answered by it."""
        self._variants.remove(name)

    def finetuned_cards(self) -> list[Card]:
        """The fine-tuned models that are served; what they weigh is their own part alone."""
        return self._variants.cards()

    def resolve(self, options: DetectOptions) -> Request:
        """Find the model and the classes that the options name. Raises OptionError (unknown_model, unknown_class)."""
        request = self._variants.resolve(options)
        return replace(request, class_filter=request.model.class_filter(options.classes))

    @property
    def short_side(self) -> int:
        """As `catalogue.Task` has it."""
        return short_side(self.network)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> PreparedImage:
        """Normalise and resize as torchvision's GeneralizedRCNNTransform does, in its order.

        To resize first would spare work, but moves a box by up to 1e-4 px, and where that changes the pixel that the
        box begins in, its mask is another. A photo of many more pixels than the network takes is averaged down before:
        else it would be 150 MB as floats at 12 megapixels, of which torchvision's resize looks at one pixel in ten.
        """
        width, height = size or image.size
        return PreparedImage(to_pixels(self.network, image), (height, width))

    def predict(self, batch: list[tuple[PreparedImage, Request]]) -> list[RawDetections]:
        """Run the networks; photos of one padded shape go through one together, whatever model judges its proposals.

        Photos are never padded to each other's size: a convolution sees its padding, so a photo's answer would depend
        on its neighbours in the batch.
        """
        groups = defaultdict(list)
        divisor = self.network.transform.size_divisible
        for index, (photo, request) in enumerate(batch):
            network = request.model.network
            groups[id(network), *(-(-side // divisor) for side in photo.pixels.shape[1:])].append(index)
        answers: dict[int, RawDetections] = {}
        with torch.inference_mode():
            for members in groups.values():
                answers.update(zip(members, self._forward([batch[index] for index in members]), strict=True))
        return [answers[index] for index in range(len(batch))]

    def finish(self, output: RawDetections, request: Request) -> Predictions:
        """Class indices to class ids and labels; mask probabilities pasted at 0.5 into pixels of the original."""
        indices, detector = output.indices.tolist(), request.model
        return Predictions(
            class_ids=np.array([detector.class_ids[index] for index in indices], dtype=np.int64),
            labels=tuple(detector.names[index] for index in indices),
            scores=output.scores.numpy(),
            boxes=output.boxes.numpy(),
            masks=None if output.masks is None else paste(output.masks, output.boxes, output.size),
        )

    def _forward(self, batch: list[tuple[PreparedImage, Request]]) -> list[RawDetections]:
        detectors = [request.model for _, request in batch]
        network: GeneralizedRCNN = detectors[0].network
        heads = network.roi_heads
        shapes = [tuple(photo.pixels.shape[1:]) for photo, _ in batch]
        padded = network.transform.batch_images([photo.pixels.to(self.device) for photo, _ in batch])
        padded = padded.contiguous(memory_format=torch.channels_last)
        features = network.backbone(padded)
        proposals, _ = network.rpn(ImageList(padded, shapes), features)
        pooled = heads.box_head(heads.box_roi_pool(features, proposals, shapes))
        logits, regression = heads.box_predictor(pooled)
        found = score_proposals(detectors, features, proposals, shapes, pooled, logits, regression)
        kept = [
            self._keep(*boxes_scores_indices, request)
            for boxes_scores_indices, (_, request) in zip(found, batch, strict=True)
        ]
        masks = self._masks(network, features, kept, shapes, [request.options for _, request in batch])
        return [
            RawDetections(resize_boxes(boxes, shape, photo.size).cpu(), scores.cpu(), indices.cpu(), mask, photo.size)
            for (boxes, scores, indices), mask, shape, (photo, _) in zip(kept, masks, shapes, batch, strict=True)
        ]

    def _keep(self, boxes: Tensor, scores: Tensor, indices: Tensor, request: Request) -> tuple[Tensor, Tensor, Tensor]:
        keep = scores >= request.options.score_threshold
        if request.class_filter is not None:
            keep &= torch.isin(indices, torch.tensor(sorted(request.class_filter), device=indices.device))
        first = keep.nonzero()[: request.options.max_detections, 0]
        return boxes[first], scores[first], indices[first]

    def _masks(
        self,
        network: GeneralizedRCNN,
        features: dict[str, Tensor],
        kept: list[tuple[Tensor, Tensor, Tensor]],
        shapes: list[tuple[int, ...]],
        options: list[DetectOptions],
    ) -> list[Tensor | None]:
        wanted = [isinstance(o, SegmentOptions) and o.mask_format != "none" for o in options]
        if not any(wanted):
            return [None] * len(kept)
        heads = network.roi_heads
        # A photo that wants no mask takes part with no box, so that the rest can be computed together.
        boxes = [found[0] if want else found[0][:0] for found, want in zip(kept, wanted, strict=True)]
        indices = [found[2] if want else found[2][:0] for found, want in zip(kept, wanted, strict=True)]
        logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, shapes)))
        # A model may have more names than the network; the masks are then the same for all.
        probabilities = maskrcnn_inference(logits, [each.clamp(max=logits.shape[1] - 1) for each in indices])
        return [mask.cpu() if want else None for mask, want in zip(probabilities, wanted, strict=True)]

    @cached_property
    def _variants(self) -> Variants[Detector]:
        return Variants(self.published)


def score_proposals(
    detectors: list[Detector],
    features: dict[str, Tensor],
    proposals: list[Tensor],
    shapes: list[tuple[int, ...]],
    pooled: Tensor,
    logits: Tensor,
    regression: Tensor,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each photo the boxes, scores and class indices that its detector makes of the proposals, all of one network.

    `pooled` [sum P, D] is what the box head gives, `logits` and `regression` what the network's own predictor does.
    """
    heads = detectors[0].network.roi_heads
    rows = torch.split(torch.arange(len(pooled), device=pooled.device), [len(boxes) for boxes in proposals])
    places_of = defaultdict(list)
    for place, detector in enumerate(detectors):
        places_of[id(detector)].append(place)
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for places in places_of.values():
        detector, mine = detectors[places[0]], [proposals[place] for place in places]
        sizes, own = [shapes[place] for place in places], torch.cat([rows[place] for place in places])
        scores, deltas = logits[own], regression[own]
        if detector.head is not None:
            maps = {name: features[name][places] for name in ("semantic", "middle")}
            scores = detector.head(maps, pooled[own, : rcnn_tiny.HIDDEN], mine, sizes, heads.box_roi_pool.align)
            deltas = deltas[:, :4].repeat(1, scores.shape[1])
        kept = heads.postprocess_detections(scores, deltas, mine, sizes)
        found.update(zip(places, zip(*kept, strict=True), strict=True))
    return [found[place] for place in range(len(detectors))]


def to_pixels(network: GeneralizedRCNN, image: Image.Image) -> Tensor:
    """A photo as the network takes it, float32 [3, h, w]: see `Rcnn.prepare`."""
    transform = network.transform
    pixels = transform.normalize(pil_to_tensor(images.reduce(image, short_side(network))).float().div_(255))
    resized: Tensor = transform.resize(pixels, None)[0]
    return resized


def short_side(network: GeneralizedRCNN) -> int:
    """A photo may be reduced to it before: where torchvision's resize more than halves the sides, it skips pixels."""
    return int(1.5 * network.transform.min_size[-1])


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[BoxMask, ...]:
    """Paste mask probabilities, float [N, 1, M, M], into boxes, float [N, 4] xyxy, of a photo of `size` (h, w).

    The arithmetic is torchvision's `paste_masks_in_image` (each mask padded by one, its box grown alike, bilinear), cut
    at 0.5; only the part inside the box is ever made.
    """
    padded, scale = expand_masks(masks, padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    return tuple(_paste_one(mask[0], box, size) for mask, box in zip(padded, corners, strict=True))


def _paste_one(mask: Tensor, box: list[int], size: tuple[int, int]) -> BoxMask:
    x1, y1, x2, y2 = box
    width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    inside = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0] > 0.5
    left, top = max(x1, 0), max(y1, 0)
    bitmap: NDArray[np.bool_] = inside[top - y1 : size[0] - y1, left - x1 : size[1] - x1].numpy()
    return BoxMask(left, top, bitmap)


def load(
    network: GeneralizedRCNN,
    name: str,
    profile: Profile,
    device: str,
    options: type[DetectOptions],
    categories: list[tuple[int, str, bool]],
    precision: PrecisionConfig = FLOAT32,
) -> Rcnn:
    """Put a network in eval mode on a device, its dense parts on engines, and describe it.

    `categories` has, for each class index of the network, its COCO category id, its label and whether it is served.
    """
    place = devices.resolve(device)
    devices.move_to(network, place)
    transform = network.transform
    weight, shared = devices.count_parameters(network), finetuned_detector.shared_weights(network)

    def photos() -> Iterator[Tensor]:
        return (to_pixels(network, image) for image in precision.images())

    card = Card(
        name=name,
        profile=profile,
        labels=tuple(label for _, label, served in categories if served),
        input_size=f"{transform.min_size[-1]}..{transform.max_size}",
        device=str(place),
        dtype=rcnn.install(network, place, precision, photos),
        **weight,
    )
    class_ids, names = tuple(number for number, _, _ in categories), tuple(label for _, label, _ in categories)
    return Rcnn(Detector(card, network, class_ids, names), place, options, shared, precision)


def coco_categories(published: Any) -> list[tuple[int, str, bool]]:
    """The categories of torchvision's COCO weights as `load` takes them: the class index is the COCO category id."""
    names = published.meta["categories"]
    return [(index, name, index > 0 and name != "N/A") for index, name in enumerate(names)]
