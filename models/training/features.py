"""What the trained part of a network sees of the photos: computed each time, or once and kept.

Kept on disk by what decides the value: the photo's content and window, the backbone's weights, its preprocessing, and
how far into the network; so a second run, or one with more photos, computes only what is new.
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

from foursight.models.engines import environment
from foursight.models.errors import ImageError
from foursight.models.networks.backbone import Backbone
from foursight.models.training import dataset
from foursight.models.training.dataset import Sample

# Photos that go through the frozen part together; on two cores more at once is slower.
BATCH = 8
Frozen = Callable[[Tensor], Tensor]
View = Callable[[Sample, int], NDArray[np.uint8]]


class Source(Protocol):
    """Examples by their place in the list."""

    def rows(self, places: Sequence[int], epoch: int) -> Tensor:
        """What the trained part takes for these, float [N, ...]."""


class Live:
    """Every view is decoded, and goes through the frozen part, each time it is asked for."""

    def __init__(self, samples: Sequence[Sample], base: Backbone, frozen: Frozen, device: torch.device, view: View):
        self._samples = samples
        self._base = base
        self._frozen = frozen
        self._device = device
        self._view = view
        self._pool = ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="decode")

    def rows(self, places: Sequence[int], epoch: int) -> Tensor:
        """As in Source."""
        crops = self._pool.map(lambda place: self._view(self._samples[place], epoch), places)
        pixels = torch.from_numpy(np.stack(list(crops))).to(self._device)
        with torch.no_grad():
            return self._frozen(self._base.normalize(pixels))


class Kept:
    """The values of all examples in memory."""

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def rows(self, places: Sequence[int], epoch: int) -> Tensor:
        """As in Source."""
        return self._values[list(places)]


def centre(base: Backbone) -> View:
    """The view that a served photo gets."""
    return lambda sample, epoch: base.crop_image(sample.image())


def cache_folder(fingerprint: str, base: Backbone, part: str) -> Path:
    """Where values are kept, in the user's cache folder (XDG); it may be deleted at any time.

    `part` says how far into the network they are from.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foursight" / "features"
    preprocessing = f"{base.resize} {base.crop} {base.resample.name} {base.mean} {base.std}"
    return root / hashlib.sha256(f"{fingerprint} {preprocessing} {part}".encode()).hexdigest()[:32]


def keep(
    samples: Sequence[Sample],
    base: Backbone,
    frozen: Frozen,
    device: torch.device,
    folder: Path,
    seen: Callable[[int], None],
) -> Kept:
    """The values of all samples, from the folder or computed into it; `seen` is told how many more are there.

    Raises DataError (bad_data) after the pass, for the photos that cannot be decoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values: list[Tensor | None] = [_stored(folder / f"{sample.key}.npy") for sample in samples]
    seen(sum(value is not None for value in values))
    missing = [place for place, value in enumerate(values) if value is None]
    problems: dict[str, None] = {}
    with torch.no_grad():
        for batch in _batches(_crops(samples, missing, base, problems, seen)):
            pixels = torch.from_numpy(np.stack([crop for _, crop in batch])).to(device)
            for (place, _), value in zip(batch, frozen(base.normalize(pixels)).cpu(), strict=True):
                values[place] = value.contiguous()
                _store(folder / f"{samples[place].key}.npy", value.contiguous().numpy())
            seen(len(batch))
    if problems:
        raise dataset.bad_data(tuple(problems))
    return Kept(torch.stack([value for value in values if value is not None]).to(device))


def _crops(
    samples: Sequence[Sample],
    places: Sequence[int],
    base: Backbone,
    problems: dict[str, None],
    seen: Callable[[int], None],
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode ahead in threads; what cannot be decoded becomes a problem and is passed over."""

    def crop(place: int) -> NDArray[np.uint8] | Exception:
        try:
            return base.crop_image(samples[place].image())
        except (ImageError, OSError) as error:
            return error

    with ThreadPoolExecutor(environment.available_cpus(), thread_name_prefix="decode") as pool:
        waiting = iter(places)
        # So many ahead and no more: a thousand photos of a telephone do not fit in memory.
        ahead = [(place, pool.submit(crop, place)) for place in islice(waiting, 2 * BATCH)]
        while ahead:
            place, future = ahead.pop(0)
            found = future.result()
            ahead += [(following, pool.submit(crop, following)) for following in islice(waiting, 1)]
            if isinstance(found, Exception):
                problems[dataset.unreadable_line(samples[place].path, found)] = None
                seen(1)
            else:
                yield place, found


def _batches(
    crops: Iterator[tuple[int, NDArray[np.uint8]]],
) -> Iterator[list[tuple[int, NDArray[np.uint8]]]]:
    while batch := list(islice(crops, BATCH)):
        yield batch


def _stored(path: Path) -> Tensor | None:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        # Not there, or not whole: computed again.
        return None


def _store(path: Path, value: NDArray[np.float32]) -> None:
    # Another run may write the same value at the same time.
    new = path.with_suffix(f".{os.getpid()}.new")
    with new.open("wb") as file:
        np.save(file, value)
    new.replace(path)
