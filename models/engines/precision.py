"""What engines compute in: float32, or, for speed, bfloat16 or int8.

int8 needs to know what values occur between the layers: its ranges are taken from a folder of photos like those that
will be asked about (post-training quantization; Jacob et al. 2018, section 3; by NNCF).
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

# To run detection over so many and to quantize it takes half a minute of two cores.
MAX_IMAGES = 64


@dataclass(frozen=True)
class PrecisionConfig:
    """A precision and, for int8, the folder of photos to calibrate on."""

    dtype: Precision = "float32"
    calibration_dir: Path | None = None

    def require(self) -> None:
        """Raise PrecisionError for what this machine cannot do, before a network is loaded."""
        if self.dtype == "float32":
            return
        if not has_openvino():
            raise _unsupported(self.dtype, "OpenVINO is not installed.", 'Install it: pip install "foursight[server]".')
        if self.dtype == "bfloat16" and "BF16" not in _abilities():
            raise _unsupported("bfloat16", "This processor has no instructions for it.", "Choose float32 or int8.")
        if self.dtype == "int8":
            if find_spec("nncf") is None:
                raise _unsupported("int8", "NNCF is not installed.", 'Install it: pip install "foursight[int8]".')
            for _ in self.images():
                pass

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The photos that count: MAX_IMAGES of those in the folder, evenly over their sorted names."""
        if self.calibration_dir is None:
            raise _unsupported("int8", "There are no photos to calibrate on.", "Name their folder with --calibration.")
        suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
        found = sorted(path for path in self.calibration_dir.rglob("*") if path.suffix.lower() in suffixes)
        if not found:
            raise _unsupported("int8", f"{self.calibration_dir} has no photos.", "Name a folder with some 100 of them.")
        count = min(MAX_IMAGES, len(found))
        return tuple(found[index * len(found) // count] for index in range(count))

    def images(self) -> Iterator[Image.Image]:
        """The photos, upright and in RGB. Raises PrecisionError where one cannot be read."""
        for path in self.files:
            try:
                yield decode(path.read_bytes())
            except (OSError, ImageError) as error:
                raise _unsupported("int8", f"{path} cannot be read: {error}", "Take it out of the folder.") from None

    @cached_property
    def digest(self) -> str:
        """A SHA-256 over the photos."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


FLOAT32 = PrecisionConfig()


def has_openvino() -> bool:
    """Whether it is installed."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """OpenVINO; it is imported only where a network is compiled."""
    # Its tools report each import and conversion to Google Analytics, unless the package that does it is absent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # noqa: PLC0415

    return openvino


def _abilities() -> list[str]:
    found: list[str] = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _unsupported(precision: str, detail: str, hint: str) -> PrecisionError:
    return PrecisionError("precision_unavailable", f"Networks cannot be computed in {precision} here: {detail}", hint)
