"""Values that tasks return: predictions for an image, and the description of a model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Profile = Literal["tiny", "standard"]


@dataclass(frozen=True)
class BoxMask:
    """A mask cropped to the box that contains it, which saves memory for large images.

    `bitmap` is bool [h, w]; its upper left pixel is pixel (`left`, `top`) of the upright original image.
    """

    left: int
    top: int
    bitmap: NDArray[np.bool_]

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return the mask of the whole image, bool [height, width]."""
        mask = np.zeros((height, width), dtype=np.bool_)
        h, w = self.bitmap.shape
        mask[self.top : self.top + h, self.left : self.left + w] = self.bitmap
        return mask


@dataclass(frozen=True)
class Predictions:
    """N predictions for an image, best first; fields that a task does not predict are None.

    `class_ids` int64 [N]: ImageNet indices (classify, localize), COCO category ids (detect, segment), or indices into
    the labels of a fine-tuned model. `scores` float32 [N] in 0..1. `boxes` float32 [N, 4], xyxy in pixels of the
    upright original image. `wnids` are WordNet ids.
    """

    class_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32] | None = None
    masks: tuple[BoxMask, ...] | None = None
    wnids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Card:
    """Description of a loaded model.

    `input_size` is the size that the network works at in pixels, as text. `dtype` is what it computes in. For a
    fine-tuned model, `parameters` and `bytes` count only what it does not share with the built-in model.
    """

    name: str
    profile: Profile
    labels: tuple[str, ...]
    input_size: str
    device: str
    dtype: str
    parameters: int
    bytes: int
