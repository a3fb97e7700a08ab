"""Compare JPEG decoders: to an RGB array, and to the input of the classifier's network.

    pip install simplejpeg PyTurboJPEG opencv-python-headless
    python -m research.decoders

Pillow is measured as the server uses it (models/image.py). Decoders that are not installed are named and skipped. One
thread each. PyTurboJPEG needs the system's libturbojpeg.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torchvision.io
from numpy.typing import NDArray
from PIL import Image

from foursight import models
from foursight.models import image as images
from loadtests.photos import jpeg, photo
from research.engines import compare

Pixels = NDArray[np.uint8]
# From JPEG bytes and a reduction of the sides (1, 2, 4 or 8) to RGB uint8 [h, w, 3].
Decode = Callable[[bytes, int], Any]
SIZES = ((500, 400), (1632, 1224), (4000, 3000))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    task = models.load("classify")
    others = decoders()
    for width, height in SIZES:
        data = grainy((width, height))
        factor = images.reduction((width, height), task.short_side)
        repeats = max(1, 2_000_000 // (width * height))
        whole: dict[str, Callable[[], Any]] = {"Pillow": partial(by_pillow, data)}
        whole |= {name: partial(decode, data, 1) for name, decode in others.items()}
        ready: dict[str, Callable[[], Any]] = {"Pillow": partial(prepared_by_pillow, task, data)}
        ready |= {name: partial(prepared, task, decode, data, factor) for name, decode in others.items()}
        print(f"{width} x {height}, {len(data) / 1000:.0f} kB, for classify 1/{factor}")
        for title, ways in (("RGB", whole), ("classify", ready)):
            print(f"  from Pillow's, {title}: {'; '.join(differences(ways))}")
            compare(title, {name: partial(several, way, repeats) for name, way in ways.items()}, repeats, chosen.rounds)


def grainy(size: tuple[int, int]) -> bytes:
    """Return a photo scaled to (width, height) as JPEG, with the grain that scaling removes."""
    pixels = np.asarray(photo("coffee").resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, 5, pixels.shape)
    return jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), quality=90)


def decoders() -> dict[str, Decode]:
    """Return the installed decoders by name. torchvision's cannot reduce."""

    def by_torchvision(data: bytes, _: int) -> Pixels:
        file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        planes = torchvision.io.decode_jpeg(file, torchvision.io.ImageReadMode.RGB)
        return np.ascontiguousarray(planes.permute(1, 2, 0).numpy())

    found: dict[str, Decode] = {"torchvision": by_torchvision}
    for name, make in (("simplejpeg", _simplejpeg), ("PyTurboJPEG", _turbojpeg), ("OpenCV", _opencv)):
        try:
            found[name] = make()
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{name} is missing: {str(error).splitlines()[0]}")
    return found


def _simplejpeg() -> Decode:
    simplejpeg: Any = import_module("simplejpeg")

    def decode(data: bytes, factor: int) -> Any:
        if factor == 1:
            return simplejpeg.decode_jpeg(data)
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        return simplejpeg.decode_jpeg(data, min_height=height // factor, min_width=width // factor, min_factor=factor)

    return decode


def _turbojpeg() -> Decode:
    turbojpeg: Any = import_module("turbojpeg")
    codec = turbojpeg.TurboJPEG()
    return lambda data, factor: codec.decode(data, turbojpeg.TJPF_RGB, scaling_factor=(1, factor))


def _opencv() -> Decode:
    cv2: Any = import_module("cv2")
    cv2.setNumThreads(1)
    flags = {factor: getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}") for factor in (2, 4, 8)} | {1: cv2.IMREAD_COLOR}
    return lambda data, factor: cv2.cvtColor(
        cv2.imdecode(np.frombuffer(data, np.uint8), flags[factor]), cv2.COLOR_BGR2RGB
    )


def by_pillow(data: bytes) -> Pixels:
    """Decode the image at its full size."""
    return np.asarray(models.decode(data))


def prepared_by_pillow(task: Any, data: bytes) -> Any:
    """Prepare the network's input as the server does."""
    return task.prepare(*images.decode_for(data, task.short_side))


def prepared(task: Any, decode: Decode, data: bytes, factor: int) -> Any:
    """Prepare the network's input with another decoder."""
    return task.prepare(Image.fromarray(decode(data, factor)))


def several(way: Callable[[], Any], count: int) -> None:
    """Call `way` `count` times."""
    for _ in range(count):
        way()


def differences(ways: dict[str, Callable[[], Any]]) -> list[str]:
    """Return the largest and the mean difference of each way's pixels from Pillow's."""
    pillow = np.asarray(ways["Pillow"]()).astype(int)
    found = []
    for name, way in ways.items():
        gaps = np.abs(np.asarray(way()).astype(int) - pillow)
        found.append(f"{name} max {gaps.max()}, mean {gaps.mean():.3f}")
    return found[1:]


if __name__ == "__main__":
    main()
