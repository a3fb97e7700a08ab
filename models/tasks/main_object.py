"""The main object, by the detector and the classifier: a box among the detector's, and the label of what is inside.

image -> detect, score >= 0.05 -> main_box -> crop with a margin -> classify
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models import image as images
from foursight.models.engines.precision import PrecisionConfig
from foursight.models.region import region_of
from foursight.models.tasks import classify, detect, objects
from foursight.models.tasks.classify import Classification
from foursight.models.tasks.instances import Rcnn
from foursight.models.tasks.objects import RawDetections
from foursight.schema.options import ClassifyOptions, DetectOptions

# Chosen among 0, 0.25, 0.5, 0.75, 1 and 1.5 on images that no figure is of (research/detector/localize.py).
SHARE_POWER = 0.75
# All that the detector finds: a main object with a low score is better than none.
EVERYTHING = DetectOptions.model_validate({"score_threshold": 0.05})


@dataclass(frozen=True)
class Located:
    """A main object: `probabilities` float32 [K], `box` float32 [4] xyxy in pixels of the original image."""

    probabilities: NDArray[np.float32]
    box: NDArray[np.float32]


@dataclass(frozen=True)
class PreparedImage:
    """An input: the detector's, and the image that crops are cut from, which may be reduced."""

    pixels: objects.PreparedImage
    image: Image.Image

    def crop(self, box: NDArray[np.float32]) -> Image.Image:
        """Return what is inside a box [4], xyxy in pixels of the original image, and around it."""
        height, width = self.pixels.size
        scale = np.array([self.image.width / width, self.image.height / height] * 2)
        return self.image.crop(region_of((box * scale).tolist(), *self.image.size))


@dataclass(frozen=True)
class MainObject:
    """Detector and classifier; both are computed once for a batch."""

    detector: Rcnn
    classifier: Classification

    @property
    def short_side(self) -> int:
        """Shorter side in pixels that a reduced image keeps."""
        return max(self.detector.short_side, self.classifier.short_side)

    def prepare(self, image: Image.Image, size: tuple[int, int] | None = None) -> PreparedImage:
        """Resize an image for the detector; `size` is the (width, height) of the original if the image was reduced."""
        reduced = images.reduce(image, self.short_side)
        return PreparedImage(self.detector.prepare(reduced, size or image.size), reduced)

    def predict(self, batch: list[PreparedImage]) -> list[Located | None]:
        """Return the main object of each image with probabilities [1000], or None where the detector finds nothing."""
        request = self.detector.resolve(EVERYTHING)
        boxes = [main_box(found) for found in self.detector.predict([(one.pixels, request) for one in batch])]
        found = [(one, box) for one, box in zip(batch, boxes, strict=True) if box is not None]
        labels = iter(self._classify([one.crop(box) for one, box in found]))
        return [None if box is None else Located(next(labels), box) for box in boxes]

    def _classify(self, crops: list[Image.Image]) -> list[NDArray[np.float32]]:
        if not crops:
            return []
        request = self.classifier.resolve(ClassifyOptions.model_validate({}))
        found = self.classifier.predict([(self.classifier.prepare(crop), request) for crop in crops])
        return [one.probabilities for one in found]


def load(device: str, precision: PrecisionConfig) -> MainObject:
    """Load both models of the tiny profile. Raises WeightsError, PrecisionError."""
    return MainObject(detect.load("tiny", device, precision), classify.load("tiny", device, precision))


def main_box(found: RawDetections) -> NDArray[np.float32] | None:
    """Return the box with the largest score * (share of the image) ** 0.75, float32 [4] xyxy; None if there is none."""
    boxes, (height, width) = found.boxes, found.size
    shares = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (width * height)
    ranks = found.scores * shares**SHARE_POWER
    # A box without an area is none.
    return boxes[ranks.argmax()] if ranks.any() else None
