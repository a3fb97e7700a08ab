"""What detection and segmentation pass between their steps, for all networks."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models import labels
from foursight.models.results import Card
from foursight.models.tasks.variants import ResolvedRequest
from foursight.schema.options import DetectOptions, SegmentOptions

# Boxes float32 [N, 4] xyxy in pixels of the network's input, scores float32 [N], class indices int64 [N].
Objects = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Detector:
    """One model of a network.

    `class_ids` and `names` are the class id and the label of each class index; index 0 is background. `heads` is the
    fine-tuned part (finetuned/detector.py), None for the built-in model.
    """

    card: Card
    class_ids: tuple[int, ...]
    names: tuple[str, ...]
    heads: Any = None

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
    """An input: `pixels` are the network's own; `size` is the original (height, width).

    `origin` is where a tile begins in its image, as (top, left).
    """

    pixels: Any
    size: tuple[int, int]
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class RawDetections:
    """An output, in pixels of the original image of `size` (height, width), or of the tile at `origin` (top, left).

    `boxes` float32 [N, 4] xyxy, `scores` float32 [N], `indices` int64 [N] into the classes of the request's model,
    `masks` float32 [N, 28, 28] probabilities within each box, or None.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    indices: NDArray[np.int64]
    masks: NDArray[np.float32] | None
    size: tuple[int, int]
    origin: tuple[int, int] = (0, 0)


Batch = list[tuple[PreparedImage, Request]]


class ObjectNetwork(Protocol):
    """A network that finds objects."""

    @property
    def short_side(self) -> int:
        """Shorter side in pixels that a reduced image keeps."""

    @property
    def shared(self) -> str | None:
        """Identifies the weights that fine-tuned models are built on; None if there can be none."""

    def prepare(self, image: Image.Image) -> Any:
        """Return the pixels of an RGB image as the network sees it."""

    def detect(self, batch: Batch) -> list[RawDetections]:
        """Return what the model of each request finds in its image."""


def select(objects: Objects, request: Request) -> Objects:
    """Return the objects that a request wants; they come and stay best first."""
    boxes, scores, indices = objects
    keep = scores >= request.options.score_threshold
    if request.class_filter is not None:
        keep &= np.isin(indices, sorted(request.class_filter))
    first = keep.nonzero()[0][: request.options.max_detections]
    return boxes[first], scores[first], indices[first]


def wants_masks(request: Request) -> bool:
    """Whether a request asks for masks."""
    return isinstance(request.options, SegmentOptions) and request.options.mask_format != "none"


def enlarge(boxes: NDArray[np.float32], side: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Scale boxes [N, 4] xyxy from an image of one (height, width) to another."""
    ratios = [new / old for new, old in zip(size, side, strict=True)]
    return boxes * np.array(ratios[::-1] * 2, np.float32)
