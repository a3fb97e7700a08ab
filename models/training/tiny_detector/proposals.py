"""What the shipped network, frozen, makes of a photo: proposals, and all that a names' head judges them by.

Kept on disk by what decides it: the photo's content, the boxes of its objects, and the network's weights.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.transforms.functional import pil_to_tensor

from foursight.models import folders
from foursight.models.errors import ImageError
from foursight.models.finetuned import detector
from foursight.models.networks import rcnn_tiny
from foursight.models.training import datasets
from foursight.models.training.detection_data import AnnotatedImage


@dataclass(frozen=True)
class CachedProposals:
    """R boxes of a photo: its proposals, then those of its `objects` objects.

    `boxes` float32 [R, 4] xyxy in pixels of the resized photo of `shape` int64 [2] (height, width); `deltas` float32
    [R, 4] are how the box head moves them; `hidden` [R, 512], `names` [R, 1280], `texture` [R, 112] and `scene` [1,
    1280], float16, are what `detector.LabelHead` judges them by. `objects` is their number, int64 [].
    """

    boxes: Tensor
    deltas: Tensor
    hidden: Tensor
    names: Tensor
    texture: Tensor
    scene: Tensor
    shape: Tensor
    objects: Tensor

    @property
    def proposals(self) -> int:
        """How many of the rows are proposals."""
        return len(self.boxes) - int(self.objects)

    @property
    def targets(self) -> Tensor:
        """The objects' own boxes, float32 [objects, 4]."""
        return self.boxes[self.proposals :]

    @property
    def size(self) -> tuple[int, int]:
        """The resized photo's (height, width)."""
        height, width = self.shape.tolist()
        return height, width


@torch.no_grad()
def run_frozen(network: GeneralizedRCNN, pixels: Tensor, boxes: Tensor) -> CachedProposals:
    """Put a photo, float32 [3, H, W] in 0..1 on the network's device, and its objects' boxes [M, 4] through a network.

    The network is the tiny profile's, in eval mode.
    """
    heads = network.roi_heads
    images, targets = network.transform([pixels], [{"boxes": boxes}])
    sizes = images.image_sizes
    features = network.backbone(images.tensors.contiguous(memory_format=torch.channels_last))
    (found,), _ = network.rpn(images, features)
    every = [torch.cat([found, targets[0]["boxes"]])]
    pooled = heads.box_head(heads.box_roi_pool(features, every, sizes))
    _, deltas = heads.box_predictor(pooled)
    average = partial(rcnn_tiny.average, align=heads.box_roi_pool.align)
    return CachedProposals(
        every[0],
        deltas[:, :4].contiguous(),
        pooled[:, : rcnn_tiny.HIDDEN].half(),
        average(features["semantic"], every, 32).half(),
        average(features["middle"], every, 16).half(),
        average(features["semantic"], rcnn_tiny.whole_photos(every, sizes), 32).half(),
        torch.tensor(sizes[0]),
        torch.tensor(len(boxes)),
    )


def run_frozen_on(network: GeneralizedRCNN, photo: AnnotatedImage, device: torch.device) -> CachedProposals:
    """As `run_frozen`, for a photo as it is. Raises ImageError."""
    pixels = pil_to_tensor(photo.image()).to(device).float() / 255
    return run_frozen(network, pixels, photo.boxes().to(device))


def cache_folder(network: GeneralizedRCNN, shared: detector.SharedWeights) -> Path:
    """Where they are kept, in the user's cache folder (XDG); it may be deleted at any time."""
    root = folders.cache_folder("proposals")
    transform = network.transform
    what = f"{shared} {transform.min_size} {transform.max_size}"
    return root / hashlib.sha256(what.encode()).hexdigest()[:32]


def collect(
    network: GeneralizedRCNN,
    photos: Sequence[AnnotatedImage],
    device: torch.device,
    folder: Path | None,
    on_done: Callable[[int], None],
) -> list[CachedProposals]:
    """What is seen of all photos, from the folder or computed into it; `on_done` gets the number of images done.

    Raises DataError (bad_data) after the pass, for the photos that cannot be decoded.
    """
    found: list[CachedProposals] = []
    problems: dict[str, None] = {}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    for done, photo in enumerate(photos, 1):
        path = None if folder is None else folder / f"{_key(photo)}.npz"
        try:
            found.append(_stored(path, device) or _store(path, run_frozen_on(network, photo, device)))
        except (ImageError, OSError) as error:
            problems[datasets.unreadable_line(photo.path, error)] = None
        on_done(done)
    if problems:
        raise datasets.bad_data(tuple(problems))
    return found


def _key(photo: AnnotatedImage) -> str:
    boxes = hashlib.sha256(photo.boxes().numpy().tobytes()).hexdigest()
    return f"{photo.digest}-{boxes[:16]}"


def _stored(path: Path | None, device: torch.device) -> CachedProposals | None:
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return CachedProposals(*(torch.from_numpy(kept[part.name]).to(device) for part in fields(CachedProposals)))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        # Not there, or not whole: computed again.
        return None


def _store(path: Path | None, seen: CachedProposals) -> CachedProposals:
    if path is not None:
        # Another run may write the same at the same time.
        new = path.with_suffix(f".{os.getpid()}.new")
        with new.open("wb") as file:
            np.savez(file, **{part.name: getattr(seen, part.name).cpu().numpy() for part in fields(CachedProposals)})
        new.replace(path)
    return seen
