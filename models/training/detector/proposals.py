"""What the built-in network, frozen, computes for an image: its proposals, and what the heads score them by.

Kept on disk by what decides it: the image's content, the boxes of its objects, and the network's weights.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou, roi_align

from foursight.models import folders
from foursight.models.datasets import faults
from foursight.models.errors import ImageError
from foursight.models.finetuned.detector import SEMANTIC, TEXTURE, average
from foursight.models.networks.roi_align import Align, roi_align_cpu
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE
from foursight.models.networks.ssd_rcnn.masks import CELLS, MaskPool
from foursight.models.tasks import ssd_forward
from foursight.models.tasks.ssd_forward import SsdNetwork
from foursight.models.training.detection_data import AnnotatedImage

# A proposal is of an object that it overlaps by this IoU (Ren et al. 2015).
OVERLAP = 0.5
# So many boxes of an image's objects teach masks.
BOXES_OF_OBJECTS = 16


@dataclass(frozen=True)
class CachedProposals:
    """R boxes of an image: its proposals, then those of its `objects` objects.

    `boxes` float32 [R, 4] xyxy in pixels of the resized image; `logits` [R, 80] of the SSD (an object's are those of
    the proposal that overlaps it most), and the means of maps in the box, `semantic` [R, 1280] and `texture` [R, 576],
    and in the image, `scene` [1, 1280], float16. `objects` is a number, int64 [].
    """

    boxes: Tensor
    logits: Tensor
    semantic: Tensor
    texture: Tensor
    scene: Tensor
    objects: Tensor

    @property
    def proposals(self) -> int:
        """How many of the rows are proposals."""
        return len(self.boxes) - int(self.objects)

    @property
    def targets(self) -> Tensor:
        """The objects' own boxes, float32 [objects, 4]."""
        return self.boxes[self.proposals :]


@dataclass(frozen=True)
class ObjectMasks:
    """B boxes of objects: what the mask branch sees, and `masks` float16 [B, 28, 28].

    `cells` float16 [B, 152, 14, 14] and `edges` float16 [B, 24, 28, 28]. A mask has the share of each cell that the
    object covers.
    """

    cells: Tensor
    edges: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Seen:
    """An image as the frozen network sees it; `masks` only for a mask branch of its own."""

    proposals: CachedProposals
    masks: ObjectMasks | None = None


@torch.no_grad()
def run_frozen(network: SsdNetwork, image: AnnotatedImage, device: torch.device, masks: bool = False) -> Seen:
    """Run the tiny profile's network on an image, and average its maps in the boxes of the image's objects.

    `masks`: whether to return what a mask branch learns from. Raises ImageError.
    """
    seen = network.see([network.prepare(image.image())])
    rows = torch.from_numpy(seen.proposals[0]).to(device)
    features = {
        name: torch.from_numpy(level).to(device).contiguous(memory_format=torch.channels_last)
        for name, level in seen.maps.items()
    }
    objects = resize_boxes(image.boxes().to(device), image.size, ssd_forward.SIZE)
    boxes = torch.cat([rows[:, :4], objects])
    overlaps = box_iou(objects, rows[:, :4])
    align: Align = roi_align_cpu if device.type == "cpu" else roi_align
    semantic = features[SEMANTIC[0]]
    found = CachedProposals(
        boxes,
        torch.cat([rows[:, 4:], rows[overlaps.argmax(1), 4:]]).half(),
        average(semantic, [boxes], align).half(),
        average(features[TEXTURE[0]], [boxes], align).half(),
        semantic.mean((2, 3)).half(),
        torch.tensor(len(objects)),
    )
    return Seen(found, _masks(image, features, found, overlaps, align) if masks and len(objects) else None)


def _masks(
    image: AnnotatedImage, features: dict[str, Tensor], seen: CachedProposals, overlaps: Tensor, align: Align
) -> ObjectMasks:
    """Return the masks in the objects' own boxes and in the proposals that overlap them most."""
    best, nearest = overlaps.max(0)
    order = best.argsort(descending=True, stable=True)
    near = order[best[order] >= OVERLAP]
    own = torch.arange(len(overlaps), device=near.device)
    boxes = seen.boxes[torch.cat([seen.proposals + own, near])[:BOXES_OF_OBJECTS]]
    objects = torch.cat([own, nearest[near]])[:BOXES_OF_OBJECTS]
    pool = MaskPool()
    pool.align = align
    cells, edges = pool(features, [boxes], [])
    return ObjectMasks(cells.half(), edges.half(), _project(image, boxes, objects).half())


def _project(image: AnnotatedImage, boxes: Tensor, objects: Tensor) -> Tensor:
    """Return the share of each of 28 x 28 cells of a box that its object covers, float32 [B, 28, 28]."""
    outlines: list[NDArray[np.uint8]] = [coco_mask.decode(item["segmentation"]) for item in image.objects]
    height, width = image.size
    scale = boxes.new_tensor([width, height, width, height]) / FINE_SIDE
    whole = torch.from_numpy(np.stack(outlines)).to(boxes.device)
    projected: Tensor = project_masks_on_boxes(whole, boxes * scale, objects, 2 * CELLS)
    return projected


def cache_folder(shared: str) -> Path:
    """Return where they are kept, in the user's cache folder (XDG); it may be deleted at any time."""
    return folders.cache_folder("proposals") / shared[:32]


def collect(
    network: SsdNetwork,
    images: Sequence[AnnotatedImage],
    device: torch.device,
    folder: Path | None,
    on_done: Callable[[int], None],
    masks: bool = False,
) -> list[Seen]:
    """Return what is seen of all images, from the folder or computed into it; `on_done` gets the number of images done.

    With `masks` nothing is cached: `folder` must be None. Raises DataError (bad_data) after the pass, for the images
    that cannot be decoded.
    """
    found: list[Seen] = []
    problems: dict[str, None] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for done, image in enumerate(images, 1):
        path = None if folder is None else folder / f"{_key(image)}.npz"
        try:
            stored = _stored(path, device)
            found.append(stored or _store(path, run_frozen(network, image, device, masks)))
        except (ImageError, OSError) as error:
            problems[faults.unreadable_line(image.path, error)] = None
        on_done(done)
    if problems:
        raise faults.bad_data(tuple(problems))
    return found


def _key(image: AnnotatedImage) -> str:
    boxes = sha256(image.boxes().numpy().tobytes()).hexdigest()
    return f"{image.digest}-{boxes[:16]}"


def _stored(path: Path | None, device: torch.device) -> Seen | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            parts = [torch.from_numpy(kept[part.name]).to(device) for part in fields(CachedProposals)]
            return Seen(CachedProposals(*parts))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        # Not there, or not whole: computed again.
        return None


def _store(path: Path | None, seen: Seen) -> Seen:
    if path is not None:
        # Another run may write the same at the same time.
        new = path.with_suffix(f".{os.getpid()}.new")
        parts = seen.proposals
        with new.open("wb") as file:
            np.savez(file, **{part.name: getattr(parts, part.name).cpu().numpy() for part in fields(CachedProposals)})
        new.replace(path)
    return seen
