"""The tiny profile's detector: the scene on an engine, then boxes in NumPy, then outlines on an engine.

All models share what is computed for an image, so a batch may mix them: a fine-tuned model's heads see its own images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models import image as images
from foursight.models.engines import blueprints, loader
from foursight.models.engines.loader import LoadedNetwork
from foursight.models.engines.precision import PrecisionConfig
from foursight.models.networks.ssd_rcnn import boxes, interface
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.interface import MASK_MAPS, SCENE_MAPS
from foursight.models.tasks.objects import Batch, Objects, RawDetections, enlarge, select, wants_masks

Floats = NDArray[np.float32]
SIZE = (FINE_SIDE, FINE_SIDE)
NO_MASKS: Floats = np.zeros((0, 28, 28), np.float32)


@dataclass(frozen=True)
class Seen:
    """A batch of images after the scene: proposals [P, 84] of each, and maps by name, float32 [N, C, h, w]."""

    proposals: list[Floats]
    maps: dict[str, Floats]

    def of(self, rows: list[int]) -> "Seen":
        """Return some of the images."""
        if rows == list(range(len(self.proposals))):
            return self
        return Seen([self.proposals[row] for row in rows], {name: level[rows] for name, level in self.maps.items()})


@dataclass(frozen=True)
class SsdNetwork:
    """The network; `outlines` only for segmentation."""

    scene: LoadedNetwork
    outlines: LoadedNetwork | None
    short_side: int = interface.SHORT_SIDE

    @property
    def shared(self) -> str:
        """Identifies the weights that fine-tuned models are built on."""
        return str(self.scene.facts["shared"])

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return an RGB image as uint8 [480, 480, 3]."""
        return interface.stretch(images.reduce(image, self.short_side))

    def see(self, pixels: list[NDArray[np.uint8]]) -> Seen:
        """Compute what all models share."""
        rows, cells, *maps = self.scene(np.stack(pixels))
        proposals = [boxes.proposals(*one) for one in zip(rows, cells, strict=True)]
        return Seen(proposals, dict(zip(SCENE_MAPS, maps, strict=True)))

    def detect(self, batch: Batch) -> list[RawDetections]:
        """Return what the model of each request finds in its image."""
        seen = self.see([image.pixels for image, _ in batch])
        rows_of: dict[int, list[int]] = {}
        for row, (_, request) in enumerate(batch):
            rows_of.setdefault(id(request.model), []).append(row)
        found: dict[int, RawDetections] = {}
        for rows in rows_of.values():
            found |= zip(rows, self._detect([batch[row] for row in rows], seen.of(rows)), strict=True)
        return [found[row] for row in range(len(batch))]

    def _detect(self, batch: Batch, seen: Seen) -> list[RawDetections]:
        """Return what one model finds."""
        heads = batch[0][1].model.heads
        logits = heads.score(seen.maps, seen.proposals) if heads else [one[:, 4:] for one in seen.proposals]
        objects = [
            select(boxes.detections(one[:, :4], own), request)
            for one, own, (_, request) in zip(seen.proposals, logits, batch, strict=True)
        ]
        masks = self._masks(batch, objects, seen)
        return [
            RawDetections(enlarge(found, SIZE, image.size), scores, indices, mask, image.size)
            for (found, scores, indices), mask, (image, _) in zip(objects, masks, batch, strict=True)
        ]

    def _masks(self, batch: Batch, objects: list[Objects], seen: Seen) -> list[Floats | None]:
        wanted = [wants_masks(request) for _, request in batch]
        rois = np.concatenate(
            [
                np.insert(found[0], 0, row, axis=1)
                for row, (found, want) in enumerate(zip(objects, wanted, strict=True))
                if want
            ]
            or [np.zeros((0, 5), np.float32)]
        )
        masks = NO_MASKS
        if len(rois):
            heads = batch[0][1].model.heads
            outlines = heads.outline if heads and heads.has_masks else self._outline
            masks = outlines(seen.maps, rois)
        ends = np.cumsum([len(found[0]) if want else 0 for found, want in zip(objects, wanted, strict=True)])
        parts = np.split(masks, ends[:-1])
        return [part if want else None for part, want in zip(parts, wanted, strict=True)]

    def _outline(self, maps: dict[str, Floats], rois: Floats) -> Floats:
        assert self.outlines is not None
        (masks,) = self.outlines(rois, *(maps[name] for name in MASK_MAPS))
        return masks


def load(masks: bool, device: str, precision: PrecisionConfig) -> SsdNetwork:
    """Load the network on "cpu" or "cuda". Raises WeightsError, PrecisionError."""
    scene = loader.load(blueprints.scene(), device, precision)
    return SsdNetwork(scene, loader.load(blueprints.outlines(), device, precision) if masks else None)
