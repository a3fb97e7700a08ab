"""Precisions of the engines on a CPU: float32, or, faster and less exact, bfloat16 or int8.

int8 needs the range of the values between layers. It is measured on a folder of images like those to be processed
(post-training quantization; Jacob et al. 2018, section 3; done by NNCF).
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from foursight.models.errors import ImageError, PrecisionError
from foursight.models.image import FORMATS, decode

Precision = Literal["float32", "bfloat16", "int8"]

# Running detection on this many images and quantizing it takes half a minute on two cores.
MAX_IMAGES = 64


@dataclass(frozen=True)
class PrecisionConfig:
    """A precision and, for int8, the folder of images to calibrate on."""

    dtype: Precision = "float32"
    calibration_dir: Path | None = None

    def require(self) -> None:
        """Check, before any network is loaded, that this machine supports the precision. Raises PrecisionError."""
        if self.dtype == "float32":
            return
        if not has_openvino():
            raise _unavailable(self.dtype, "OpenVINO is not installed.", "Install the package openvino.")
        if self.dtype == "bfloat16" and "BF16" not in _capabilities():
            raise _unavailable("bfloat16", "This processor has no bfloat16 instructions.", "Use float32 or int8.")
        if self.dtype == "int8":
            if find_spec("nncf") is None:
                raise _unavailable("int8", "NNCF is not installed.", "Install the package nncf.")
            for _ in self.images():
                pass

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Image files to calibrate on: at most MAX_IMAGES, spread evenly over the sorted names in the folder.

        Raises PrecisionError if there are none.
        """
        if self.calibration_dir is None:
            raise _unavailable("int8", "There are no images to calibrate on.", "Set calibration_dir to their folder.")
        suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
        found = sorted(path for path in self.calibration_dir.rglob("*") if path.suffix.lower() in suffixes)
        if not found:
            raise _unavailable(
                "int8", f"There are no images in {self.calibration_dir}.", "Set calibration_dir to about 100 images."
            )
        count = min(MAX_IMAGES, len(found))
        return tuple(found[index * len(found) // count] for index in range(count))

    def images(self) -> Iterator[Image.Image]:
        """Iterate over the images, upright and RGB. Raises PrecisionError if one cannot be read."""
        for path in self.files:
            try:
                yield decode(path.read_bytes())
            except (OSError, ImageError) as error:
                raise _unavailable("int8", f"{path} cannot be read: {error}", "Remove it from the folder.") from None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


FLOAT32 = PrecisionConfig()


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """Import OpenVINO, which takes a moment, and return it."""
    # OpenVINO's tools report each import and conversion to Google Analytics, unless this package is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: PLC0415

    return openvino


def _capabilities() -> list[str]:
    found: list[str] = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _unavailable(precision: str, detail: str, hint: str) -> PrecisionError:
    return PrecisionError("precision_unavailable", f"{precision} is not available: {detail}", hint)
