"""The forward pass of Faster R-CNN and Mask R-CNN, for a batch whose images have one padded shape.

Faster R-CNN: Ren et al. 2015. Mask R-CNN: He et al. 2017. The arithmetic is that of torchvision's
`GeneralizedRCNN.forward`, but in another order: the mask head sees only the objects that the request asks for. All
models share backbone and proposals, so a batch may mix them: each model's heads see their own images.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.models.detection.transform import resize_boxes
from torchvision.transforms.functional import pil_to_tensor

from foursight.models import image as images
from foursight.models import labels
from foursight.models.results import Card
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import DetectOptions, SegmentOptions

# Boxes [N, 4] xyxy in pixels of the resized image, scores [N], class indices [N].
Objects = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Detector:
    """One model: its heads over the shared backbone and proposals.

    `class_ids` and `names` are the class id and the label of each class index; index 0 is background.
    """

    card: Card
    heads: RoIHeads
    class_ids: tuple[int, ...]
    names: tuple[str, ...]

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


def forward(
    network: GeneralizedRCNN, batch: list[tuple[PreparedImage, Request]], device: torch.device
) -> list[RawDetections]:
    """Run a network on images whose padded shapes are the same, and the heads of each request's model over it."""
    shapes = [tuple(image.pixels.shape[1:]) for image, _ in batch]
    padded = network.transform.batch_images([image.pixels.to(device) for image, _ in batch])
    padded = padded.contiguous(memory_format=torch.channels_last)
    features = network.backbone(padded)
    proposals, _ = network.rpn(ImageList(padded, shapes), features)
    indices_of = defaultdict(list)
    for index, (_, request) in enumerate(batch):
        indices_of[id(request.model)].append(index)
    found: dict[int, RawDetections] = {}
    for indices in indices_of.values():
        images, requests = zip(*(batch[index] for index in indices), strict=True)
        maps = features if len(indices) == len(batch) else {name: level[indices] for name, level in features.items()}
        mine, sizes = [proposals[index] for index in indices], [shapes[index] for index in indices]
        found.update(zip(indices, _run_heads(maps, mine, sizes, images, requests), strict=True))
    return [found[index] for index in range(len(batch))]


def _run_heads(
    features: dict[str, Tensor],
    proposals: list[Tensor],
    shapes: list[tuple[int, ...]],
    images: Sequence[PreparedImage],
    requests: Sequence[Request],
) -> list[RawDetections]:
    """Run the heads of one model on the images of its requests."""
    heads = requests[0].model.heads
    logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, shapes)))
    objects = zip(*heads.postprocess_detections(logits, deltas, proposals, shapes), strict=True)
    kept = [_select(found, request) for found, request in zip(objects, requests, strict=True)]
    masks = _masks(heads, features, kept, shapes, [request.options for request in requests])
    return [
        RawDetections(resize_boxes(boxes, shape, image.size).cpu(), scores.cpu(), indices.cpu(), mask, image.size)
        for (boxes, scores, indices), mask, shape, image in zip(kept, masks, shapes, images, strict=True)
    ]


def _select(objects: Objects, request: Request) -> Objects:
    boxes, scores, indices = objects
    keep = scores >= request.options.score_threshold
    if request.class_filter is not None:
        keep &= torch.isin(indices, torch.tensor(sorted(request.class_filter), device=indices.device))
    first = keep.nonzero()[: request.options.max_detections, 0]
    return boxes[first], scores[first], indices[first]


def _masks(
    heads: RoIHeads,
    features: dict[str, Tensor],
    kept: list[Objects],
    shapes: list[tuple[int, ...]],
    options: list[DetectOptions],
) -> list[Tensor | None]:
    wanted = [isinstance(o, SegmentOptions) and o.mask_format != "none" for o in options]
    if not any(wanted):
        return [None] * len(kept)
    # An image whose masks are not wanted contributes no boxes.
    boxes = [found[0] if want else found[0][:0] for found, want in zip(kept, wanted, strict=True)]
    indices = [found[2] if want else found[2][:0] for found, want in zip(kept, wanted, strict=True)]
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, shapes)))
    # A model may have more classes than the network, but then the masks are the same for all of them.
    probabilities = maskrcnn_inference(logits, [each.clamp(max=logits.shape[1] - 1) for each in indices])
    return [mask.cpu() if want else None for mask, want in zip(probabilities, wanted, strict=True)]
