"""The frozen part's features of the examples: computed for each batch, or once and cached.

The cache key contains everything that a value depends on: the file's content and the window, the backbone's weights,
its preprocessing, and the depth in the network. So a later run computes only what is new.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foursight.models import folders
from foursight.models.datasets import faults
from foursight.models.engines import environment
from foursight.models.errors import ImageError
from foursight.models.networks.backbone import Backbone
from foursight.models.training.classification_data import Sample

# Images per pass of the frozen part; on two cores larger batches are slower.
BATCH = 8
Frozen = Callable[[Tensor], Tensor]
View = Callable[[Sample, int], NDArray[np.uint8]]


class FeatureSource(Protocol):
    """Features of examples, by their index."""

    def rows(self, indices: Sequence[int], epoch: int) -> Tensor:
        """Return the input of the trained part for these examples, float [N, ...]."""


class OnlineFeatures:
    """Decodes each view and computes its features on every call."""

    def __init__(self, samples: Sequence[Sample], base: Backbone, frozen: Frozen, device: torch.device, view: View):
        self._samples = samples
        self._base = base
        self._frozen = frozen
        self._device = device
        self._view = view
        self._pool = ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="decode")

    def rows(self, indices: Sequence[int], epoch: int) -> Tensor:
        """As in FeatureSource."""
        crops = self._pool.map(lambda index: self._view(self._samples[index], epoch), indices)
        pixels = torch.from_numpy(np.stack(list(crops))).to(self._device)
        with torch.no_grad():
            return self._frozen(self._base.normalize(pixels))


class CachedFeatures:
    """Holds the features of all examples in memory."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def rows(self, indices: Sequence[int], epoch: int) -> Tensor:
        """As in FeatureSource."""
        return self._values[list(indices)]


def center_view(base: Backbone) -> View:
    """Return the view that a server makes of an image."""
    return lambda sample, epoch: base.view.crop_image(sample.image())


def cache_folder(fingerprint: str, base: Backbone, part: str) -> Path:
    """Return the cache folder, in the user's cache folder (XDG); it may be deleted at any time.

    `part` names the layer that the features are taken from.
    """
    root = folders.cache_folder("features")
    preprocessing = f"{base.view.resize} {base.view.crop} {base.view.resample.name} {base.mean} {base.std}"
    return root / hashlib.sha256(f"{fingerprint} {preprocessing} {part}".encode()).hexdigest()[:32]


def compute_or_load(
    samples: Sequence[Sample],
    base: Backbone,
    frozen: Frozen,
    device: torch.device,
    folder: Path,
    on_done: Callable[[int], None],
) -> CachedFeatures:
    """Return the features of all samples, read from the folder or computed and written there.

    `on_done` is called with the number of samples finished since the last call. Raises DataError (bad_data) after the
    pass, for all images that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values: list[Tensor | None] = [_load(folder / f"{sample.key}.npy") for sample in samples]
    on_done(sum(value is not None for value in values))
    missing = [index for index, value in enumerate(values) if value is None]
    problems: dict[str, None] = {}
    crops = _crops(samples, missing, base, problems, on_done)
    with torch.no_grad():
        while batch := list(islice(crops, BATCH)):
            pixels = torch.from_numpy(np.stack([crop for _, crop in batch])).to(device)
            for (index, _), value in zip(batch, frozen(base.normalize(pixels)).cpu(), strict=True):
                values[index] = value.contiguous()
                _save(folder / f"{samples[index].key}.npy", value.contiguous().numpy())
            on_done(len(batch))
    if problems:
        raise faults.bad_data(tuple(problems))
    return CachedFeatures(torch.stack([value for value in values if value is not None]).to(device))


def _crops(
    samples: Sequence[Sample],
    indices: Sequence[int],
    base: Backbone,
    problems: dict[str, None],
    on_done: Callable[[int], None],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode ahead in threads. An image that cannot be decoded is added to `problems` and skipped."""

    def crop(index: int) -> NDArray[np.uint8] | Exception:
        try:
            return base.view.crop_image(samples[index].image())
        except (ImageError, OSError) as error:
            return error

    with ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="decode") as pool:
        waiting = iter(indices)
        # Bounded: a thousand decoded phone photos do not fit in memory.
        ahead = [(index, pool.submit(crop, index)) for index in islice(waiting, 2 * BATCH)]
        while ahead:
            index, future = ahead.pop(0)
            found = future.result()
            ahead += [(following, pool.submit(crop, following)) for following in islice(waiting, 1)]
            if isinstance(found, Exception):
                problems[faults.unreadable_line(samples[index].path, found)] = None
                on_done(1)
            else:
                yield index, found


def _load(path: Path) -> Tensor | None:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        # Missing or incomplete: compute it again.
        return None


def _save(path: Path, value: NDArray[np.float32]) -> None:
    # Another run may write the same file at the same time.
    new = path.with_suffix(f".{os.getpid()}.new")
    with new.open("wb") as file:
        np.save(file, value)
    new.replace(path)
