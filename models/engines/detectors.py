"""The detector in two parts for engines (blueprints.py): what is computed for images, and for boxes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import roi_align

from foursight.models.engines import devices
from foursight.models.engines.builder import Network
from foursight.models.engines.engine import Pairs
from foursight.models.engines.loader import Array
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE, PICKED, proposals
from foursight.models.networks.ssd_rcnn.interface import MASK_MAPS, SCENE_MAPS, stretch

# int8 is calibrated on the masks of so many proposals of an image.
CALIBRATION_BOXES = 64
# The share of cells that two results must have in common.
MOST = 0.9


class Scene(nn.Module):
    """Backbone and SSD's heads."""

    def __init__(self, network: GeneralizedRCNN) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.rpn.head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map uint8 [N, 480, 480, 3] to rows [N, A, 84] and cells [N, 190] (see SparseHead), and SCENE_MAPS."""
        # As torchvision's transform: to 0..1, then (x - .5) / .5.
        maps = self.backbone((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
        return *self.head(maps), *(maps[name] for name in SCENE_MAPS)


class Outlines(nn.Module):
    """The mask branch."""

    def __init__(self, network: GeneralizedRCNN) -> None:
        super().__init__()
        heads = network.roi_heads
        self.pool, self.head, self.predictor = heads.mask_roi_pool, heads.mask_head, heads.mask_predictor
        self.pool.align = roi_align

    def forward(self, rois: Tensor, *maps: Tensor) -> Tensor:
        """Map rois [M, 5] (index of the image, xyxy in pixels of 480 x 480) and MASK_MAPS to masks [M, 28, 28]."""
        cells = self.pool.cells_of(dict(zip(MASK_MAPS, maps, strict=True)), rois)
        masks: Tensor = self.predictor.mask(self.head(cells)).sigmoid()
        return masks


def scene() -> Network:
    """Return `Scene` for an engine; its facts say what fine-tuned models share. Raises WeightsError."""
    network = ssd_rcnn.load(masks=False)
    facts = {**devices.count_parameters(network), "shared": ssd_rcnn.shared_weights(network)}
    return Network(
        Scene(network).eval(), (_examples(2), _examples(3)), facts, rows=True, calibration=_images, compare=same_cells
    )


def outlines() -> Network:
    """Return `Outlines` for an engine. Raises WeightsError."""
    network = ssd_rcnn.load(masks=True)
    heads = network.roi_heads
    module, before = Outlines(network).eval(), Scene(network).eval()
    facts = {**devices.count_parameters(nn.ModuleList([heads.mask_head, heads.mask_predictor]))}

    @torch.no_grad()
    def inputs(images: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        maps = dict(zip(SCENE_MAPS, before(images)[2:], strict=True))
        rois = torch.cat([torch.full((len(boxes), 1), float(len(images) - 1)), boxes], 1)
        return rois, *(maps[name] for name in MASK_MAPS)

    def calibration(images: Iterator[Image.Image]) -> list[tuple[Tensor, ...]]:
        found = []
        for (pixels,) in _images(images):
            rows, cells = before(pixels)[:2]
            found_boxes = proposals(rows[0].numpy(), cells[0].numpy())[:CALIBRATION_BOXES, :4]
            found.append(inputs(pixels, torch.from_numpy(found_boxes)))
        return found

    fixed = torch.tensor([[0.0, 0, FINE_SIDE, FINE_SIDE], [8, 8, 40, 40], [40, 100, 390, 230]])
    examples = inputs(*_examples(2), fixed[:2]), inputs(*_examples(3), fixed)
    return Network(module, examples, facts, calibration=torch.no_grad()(calibration))


def _examples(count: int) -> tuple[Tensor]:
    """Return a batch of images: of noise alone, too many cells would be equally good."""
    noise = torch.rand((count, 3, 12, 12), generator=torch.Generator().manual_seed(count))
    smooth = nn.functional.interpolate(noise, (FINE_SIDE, FINE_SIDE), mode="bicubic").clamp(0, 1) * 255
    return (smooth.to(torch.uint8).permute(0, 2, 3, 1).contiguous(),)


def _images(images: Iterator[Image.Image]) -> list[tuple[Tensor]]:
    return [(torch.tensor(stretch(image)[None]),) for image in images]


def same_cells(mine: Sequence[Array], own: Sequence[Array]) -> Pairs:
    """Pair two results of `Scene`: rows of the cells that both picked, which must be most, and the maps.

    Two cells may be equally good but for rounding.
    """
    for rows, cells, own_rows, own_cells in zip(*mine[:2], *own[:2], strict=True):
        first_cell = first_row = 0
        for count, shapes in PICKED.values():
            picked = slice(first_cell, first_cell + count)
            common, at, own_at = np.intersect1d(cells[picked], own_cells[picked], return_indices=True)
            if len(common) < MOST * count:
                yield cells[picked], own_cells[picked]
            anchors = slice(first_row, first_row + count * shapes)
            yield rows[anchors].reshape(count, -1)[at], own_rows[anchors].reshape(count, -1)[own_at]
            first_cell, first_row = picked.stop, anchors.stop
        yield rows[first_row:], own_rows[first_row:]
    yield from zip(mine[2:], own[2:], strict=True)
