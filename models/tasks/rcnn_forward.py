"""torchvision's Faster R-CNN and Mask R-CNN (Ren et al. 2015; He et al. 2017), as the standard profile has them.

The arithmetic is that of torchvision's `GeneralizedRCNN.forward`, but in another order: the mask head sees only the
objects that the request asks for.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.transforms.functional import pil_to_tensor

from foursight.models import image as images
from foursight.models.engines import devices, rcnn
from foursight.models.engines.precision import PrecisionConfig
from foursight.models.tasks.objects import Batch, Objects, RawDetections, enlarge, select, wants_masks


@dataclass(frozen=True)
class RcnnNetwork:
    """A network in eval mode on `device`; its dense parts may be on engines, in `dtype`."""

    network: GeneralizedRCNN
    device: torch.device
    dtype: str
    shared: None = None

    @property
    def short_side(self) -> int:
        """Shorter side that a reduced image keeps: torchvision's resize skips pixels if it more than halves."""
        return _short_side(self.network)

    def prepare(self, image: Image.Image) -> Tensor:
        """Return an RGB image as float32 [3, h, w], resized and normalised."""
        return to_pixels(self.network, image)

    def detect(self, batch: Batch) -> list[RawDetections]:
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
                found = self._forward([batch[index] for index in members])
                outputs.update(zip(members, found, strict=True))
        return [outputs[index] for index in range(len(batch))]

    def _forward(self, batch: Batch) -> list[RawDetections]:
        """Run the network on images whose padded shapes are the same."""
        network, heads = self.network, self.network.roi_heads
        shapes = [tuple(image.pixels.shape[1:]) for image, _ in batch]
        padded = network.transform.batch_images([image.pixels.to(self.device) for image, _ in batch])
        padded = padded.contiguous(memory_format=torch.channels_last)
        features = network.backbone(padded)
        proposals, _ = network.rpn(ImageList(padded, shapes), features)
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, shapes)))
        found = heads.postprocess_detections(logits, deltas, proposals, shapes)
        objects = [
            select((boxes.cpu().numpy(), scores.cpu().numpy(), indices.cpu().numpy()), request)
            for boxes, scores, indices, (_, request) in zip(*found, batch, strict=True)
        ]
        masks = self._masks(features, objects, shapes, batch)
        return [
            RawDetections(enlarge(boxes, shape, image.size), scores, indices, mask, image.size)
            for (boxes, scores, indices), mask, shape, (image, _) in zip(objects, masks, shapes, batch, strict=True)
        ]

    def _masks(
        self, features: dict[str, Tensor], objects: list[Objects], shapes: list[tuple[int, ...]], batch: Batch
    ) -> list[NDArray[np.float32] | None]:
        wanted = [wants_masks(request) for _, request in batch]
        if not any(wanted):
            return [None] * len(batch)
        heads = self.network.roi_heads
        # An image whose masks are not wanted contributes no boxes.
        each = [
            (found[0], found[2]) if want else (found[0][:0], found[2][:0])
            for found, want in zip(objects, wanted, strict=True)
        ]
        boxes, indices = (
            [torch.from_numpy(part).to(self.device) for part in parts] for parts in zip(*each, strict=True)
        )
        logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes, shapes)))
        probabilities = maskrcnn_inference(logits, indices)
        return [mask[:, 0].cpu().numpy() if want else None for mask, want in zip(probabilities, wanted, strict=True)]


def load(network: GeneralizedRCNN, device: str, precision: PrecisionConfig) -> RcnnNetwork:
    """Move a network to "cpu" or "cuda", and put its dense parts on engines. Raises PrecisionError."""
    target = torch.device(device)
    devices.move_to(network, target)

    def calibration_images() -> Iterator[Tensor]:
        return (to_pixels(network, image) for image in precision.images())

    return RcnnNetwork(network, target, rcnn.install(network, target, precision, calibration_images))


def _short_side(network: GeneralizedRCNN) -> int:
    return int(1.5 * network.transform.min_size[-1])


def to_pixels(network: GeneralizedRCNN, image: Image.Image) -> Tensor:
    """Turn an image into the network's input, float32 [3, h, w], as torchvision's GeneralizedRCNNTransform does.

    It normalises first, then resizes. The other order would save work, but would move boxes by up to 1e-4 px, and a box
    that starts in another pixel gets another mask. A large image is averaged down first: at 12 megapixels it would take
    150 MB as floats, and torchvision's resize would read one pixel in ten.
    """
    transform = network.transform
    pixels = transform.normalize(pil_to_tensor(images.reduce(image, _short_side(network))).float().div_(255))
    resized: Tensor = transform.resize(pixels, None)[0]
    return resized
