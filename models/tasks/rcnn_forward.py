"""The forward pass of Faster R-CNN and Mask R-CNN, for a batch whose images have one padded shape.

Faster R-CNN: Ren et al. 2015. Mask R-CNN: He et al. 2017. The arithmetic is that of torchvision's
`GeneralizedRCNN.forward`, but in another order: the mask head sees only the objects that the request asks for, and
boxes and classes may come from the head of a fine-tuned model.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.models.detection.transform import resize_boxes
from torchvision.transforms.functional import pil_to_tensor

from foursight.models import image as images
from foursight.models import labels
from foursight.models.finetuned.detector import LabelHead
from foursight.models.networks import rcnn_tiny
from foursight.models.results import Card
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import DetectOptions, SegmentOptions

# Boxes [N, 4] xyxy in pixels of the resized image, scores [N], class indices [N].
Objects = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Detector:
    """One model: its network, and a head for the classes if it shares the network of the built-in model.

    `class_ids` and `names` are the class id and the label of each class index; index 0 is background.
    """

    card: Card
    network: GeneralizedRCNN
    class_ids: tuple[int, ...]
    names: tuple[str, ...]
    head: LabelHead | None = None

    def class_filter(self, classes: list[str] | None) -> frozenset[int] | None:
        """Return the indices of the named classes, or None for all. Raises OptionError (unknown_class)."""
        if classes is None:
            return None
        served = set(self.card.labels)
        pairs = [(name, index) for index, name in enumerate(self.names) if name in served]
        return labels.ids_of(classes, [name for name, _ in pairs], [index for _, index in pairs])


Request = ResolvedRequest[DetectOptions, Detector]


@dataclass(frozen=True)
class PreparedImage:
    """An input: `pixels` float32 [3, h, w], resized and normalised; `size` is the original (height, width)."""

    pixels: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class RawDetections:
    """An output, on the CPU, in pixels of the original image of `size` (height, width).

    `boxes` float32 [N, 4] xyxy, `scores` float32 [N], `indices` int64 [N] into the classes of the request's model,
    `masks` float32 [N, 1, 28, 28] probabilities within each box, or None.
    """

    boxes: Tensor
    scores: Tensor
    indices: Tensor
    masks: Tensor | None
    size: tuple[int, int]


def short_side(network: GeneralizedRCNN) -> int:
    """Return the shorter side that a reduced image keeps: torchvision's resize skips pixels if it more than halves."""
    return int(1.5 * network.transform.min_size[-1])


def to_pixels(network: GeneralizedRCNN, image: Image.Image) -> Tensor:
    """Turn an image into the network's input, float32 [3, h, w], as torchvision's GeneralizedRCNNTransform does.

    It normalises first, then resizes. The other order would save work, but would move boxes by up to 1e-4 px, and a box
    that starts in another pixel gets another mask. A large image is averaged down first: at 12 megapixels it would take
    150 MB as floats, and torchvision's resize would read one pixel in ten.
    """
    transform = network.transform
    pixels = transform.normalize(pil_to_tensor(images.reduce(image, short_side(network))).float().div_(255))
    resized: Tensor = transform.resize(pixels, None)[0]
    return resized


def forward(batch: list[tuple[PreparedImage, Request]], device: torch.device) -> list[RawDetections]:
    """Run one network on images whose padded shapes are the same; all requests name models with that network."""
    detectors = [request.model for _, request in batch]
    network: GeneralizedRCNN = detectors[0].network
    heads = network.roi_heads
    shapes = [tuple(image.pixels.shape[1:]) for image, _ in batch]
    padded = network.transform.batch_images([image.pixels.to(device) for image, _ in batch])
    padded = padded.contiguous(memory_format=torch.channels_last)
    features = network.backbone(padded)
    proposals, _ = network.rpn(ImageList(padded, shapes), features)
    pooled = heads.box_head(heads.box_roi_pool(features, proposals, shapes))
    logits, regression = heads.box_predictor(pooled)
    found = score_proposals(detectors, features, proposals, shapes, pooled, logits, regression)
    kept = [_select(objects, request) for objects, (_, request) in zip(found, batch, strict=True)]
    masks = _masks(network, features, kept, shapes, [request.options for _, request in batch])
    return [
        RawDetections(resize_boxes(boxes, shape, image.size).cpu(), scores.cpu(), indices.cpu(), mask, image.size)
        for (boxes, scores, indices), mask, shape, (image, _) in zip(kept, masks, shapes, batch, strict=True)
    ]


def score_proposals(
    detectors: list[Detector],
    features: dict[str, Tensor],
    proposals: list[Tensor],
    shapes: list[tuple[int, ...]],
    pooled: Tensor,
    logits: Tensor,
    regression: Tensor,
) -> list[Objects]:
    """Turn proposals into objects, best first, for each image by its own detector; all detectors share one network.

    `proposals` are [P, 4] xyxy for each image of `shapes` (height, width). `pooled` [sum P, D] is the output of the box
    head; `logits` and `regression` are those of the network's own predictor.
    """
    heads = detectors[0].network.roi_heads
    rows = torch.split(torch.arange(len(pooled), device=pooled.device), [len(boxes) for boxes in proposals])
    indices_of = defaultdict(list)
    for index, detector in enumerate(detectors):
        indices_of[id(detector)].append(index)
    found: dict[int, Objects] = {}
    for indices in indices_of.values():
        detector, mine = detectors[indices[0]], [proposals[index] for index in indices]
        sizes, own = [shapes[index] for index in indices], torch.cat([rows[index] for index in indices])
        scores, deltas = logits[own], regression[own]
        if detector.head is not None:
            maps = {name: features[name][indices] for name in ("semantic", "middle")}
            scores = detector.head(maps, pooled[own, : rcnn_tiny.HIDDEN], mine, sizes, heads.box_roi_pool.align)
            deltas = deltas[:, :4].repeat(1, scores.shape[1])
        kept = heads.postprocess_detections(scores, deltas, mine, sizes)
        found.update(zip(indices, zip(*kept, strict=True), strict=True))
    return [found[index] for index in range(len(detectors))]


def _select(objects: Objects, request: Request) -> Objects:
    boxes, scores, indices = objects
    keep = scores >= request.options.score_threshold
    if request.class_filter is not None:
        keep &= torch.isin(indices, torch.tensor(sorted(request.class_filter), device=indices.device))
    first = keep.nonzero()[: request.options.max_detections, 0]
    return boxes[first], scores[first], indices[first]


def _masks(
    network: GeneralizedRCNN,
    features: dict[str, Tensor],
    kept: list[Objects],
    shapes: list[tuple[int, ...]],
    options: list[DetectOptions],
) -> list[Tensor | None]:
    wanted = [isinstance(o, SegmentOptions) and o.mask_format != "none" for o in options]
    if not any(wanted):
        return [None] * len(kept)
    heads = network.roi_heads
    # An image whose masks are not wanted contributes no boxes.
    boxes = [found[0] if want else found[0][:0] for found, want in zip(kept, wanted, strict=True)]
    indices = [found[2] if want else found[2][:0] for found, want in zip(kept, wanted, strict=True)]
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, shapes)))
    # A model may have more classes than the network, but then the masks are the same for all of them.
    probabilities = maskrcnn_inference(logits, [each.clamp(max=logits.shape[1] - 1) for each in indices])
    return [mask.cpu() if want else None for mask, want in zip(probabilities, wanted, strict=True)]
