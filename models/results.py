"""The value that every task gives back, and what it tells of itself."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Profile = Literal["tiny", "standard"]


@dataclass(frozen=True)
class BoxMask:
    """A mask kept as the part of it that can be non-zero, so that a large photo costs no large array.

    `bitmap` is bool [h, w]; its upper left pixel is pixel (`left`, `top`) of the upright original photo.
    """

    left: int
    top: int
    bitmap: NDArray[np.bool_]

    def full(self, height: int, width: int) -> NDArray[np.bool_]:
        """The mask as bool [height, width] of the whole photo."""
        mask = np.zeros((height, width), dtype=np.bool_)
        h, w = self.bitmap.shape
        mask[self.top : self.top + h, self.left : self.left + w] = self.bitmap
        return mask


@dataclass(frozen=True)
class Predictions:
    """N predictions for one photo, best first.

    `class_ids` int64 [N]: ImageNet indices (classification, localization) or COCO category ids (the other two);
    `scores` float32 [N] in 0..1; `boxes` float32 [N, 4], xyxy in pixels of the upright original photo; `wnids` are
    WordNet ids. What a task does not give is None.
    """

    class_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32] | None = None
    masks: tuple[BoxMask, ...] | None = None
    wnids: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Card:
    """What a loaded task says of itself: the figures of `GET /v1/models`."""

    name: str
    profile: Profile
    labels: tuple[str, ...]
    input_size: str
    device: str
    dtype: str
    parameters: int
    bytes: int
