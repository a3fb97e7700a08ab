"""Turns what a caller passes as an image into the bytes of an upload."""

import base64
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from foursight.clients.sdk.errors import UnreadableImage


class Readable(Protocol):
    """A file opened in binary mode."""

    def read(self) -> bytes:
        """Return the remaining bytes."""


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image | NDArray[np.uint8]
# Where the pixels are read again for drawing.
Original = Path | bytes | Image.Image

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# Modes that PNG does not have, and the one that keeps their transparency.
_CONVERTED = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_EXPECTED = "Pass a path, an http(s) or data: URL, bytes, a binary file, a PIL image or a numpy array, uint8 [H, W, 3]."


@dataclass(frozen=True)
class Upload:
    """The bytes to send. `size` is the (width, height) of the upright original if it was shrunk, else None."""

    content: bytes
    original: Original
    size: tuple[int, int] | None = None


def is_url(image: ImageInput) -> bool:
    """Return whether the image has to be fetched."""
    return isinstance(image, str) and image[:8].lower().startswith(("http://", "https://"))


def load(image: ImageInput, max_side: int | None = None) -> Upload:
    """Read an image, and shrink it if its longer side exceeds `max_side` pixels.

    Files are sent unchanged, or, if they are shrunk, as an upright JPEG. PIL images are turned upright by their EXIF
    orientation, as files are, and sent losslessly, as are arrays. Images with more than 8 bits per sample are never
    shrunk. Bytes that Pillow cannot read are sent too, because the server's error is more helpful.

    Raises UnreadableImage, and ValueError for a `max_side` below 1.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side is {max_side}; it must be at least 1 pixel")
    try:
        return _load(image, max_side)
    except UnreadableImage:
        raise
    except Exception as error:
        # A closed file or image, a truncated file, an empty crop: Pillow raises nearly any exception.
        raise UnreadableImage(f"The image cannot be read: {error}.") from error


def _load(image: ImageInput, max_side: int | None) -> Upload:
    content: bytes
    original: Original
    match image:
        case Image.Image():
            picture = ImageOps.exif_transpose(image)
            return _shrink(picture, picture, max_side) or Upload(_encode(picture), picture)
        case np.ndarray():
            picture = _from_array(image)
            return _shrink(picture, picture, max_side) or Upload(_encode(picture), picture)
        case bytes() | bytearray() | memoryview():
            content = original = bytes(image)
        case str() if is_url(image):
            raise UnreadableImage(f"{image} is a URL: only a client's methods fetch images.")
        case str() if image[:5].lower() == "data:":
            content = original = _from_data_url(image)
        case str() | os.PathLike():
            path = original = Path(image)
            content = _read(path)
        case _ if hasattr(image, "read"):
            content = original = image.read()
            if not isinstance(content, bytes):
                raise UnreadableImage("The file is open in text mode. Open it in binary mode, 'rb'.")
        case _:
            raise UnreadableImage(f"Unsupported image type: {type(image).__name__}. {_EXPECTED}")
    return (_shrink_file(content, original, max_side) if max_side else None) or Upload(content, original)


def open_original(original: Original) -> Image.Image:
    """Return the upright image, to which the coordinates of an answer refer. Raises UnreadableImage."""
    if isinstance(original, Image.Image):
        return original
    try:
        with Image.open(BytesIO(original) if isinstance(original, bytes) else original) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:
        name = "The image" if isinstance(original, bytes) else original
        raise UnreadableImage(f"{name} cannot be opened: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror or error}.") from error


def _from_data_url(url: str) -> bytes:
    """Decode a data: URL (RFC 2397) in base64."""
    head, _, text = url.partition(",")
    if not head.lower().endswith(";base64"):
        raise UnreadableImage("The data: URL is not in base64, as in data:image/png;base64,....")
    return base64.b64decode(unquote(text), validate=True)


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    good = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if array.dtype != np.uint8 or not good or 0 in shape:
        raise UnreadableImage(
            f"An array of {array.dtype} with shape {list(array.shape)} is not an image. It must be uint8: RGB "
            "[H, W, 3], RGBA [H, W, 4] or grey [H, W]."
        )
    return Image.fromarray(np.ascontiguousarray(array).reshape(shape))


def _encode(image: Image.Image) -> bytes:
    out = BytesIO()
    if image.mode[0] in "IF":
        # PNG has no signed, 32-bit or floating-point samples.
        image.save(out, "TIFF")
    else:
        image = image if image.mode in _PNG_MODES else image.convert(_CONVERTED.get(image.mode, "RGB"))
        # Compression level 1: the network to the server is rarely the bottleneck.
        image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _shrink_file(content: bytes, original: Original, max_side: int) -> Upload | None:
    try:
        with Image.open(BytesIO(content)) as image:
            if max(image.size) <= max_side:
                return None
            width, height = size = image.size
            # Lets libjpeg decode at 1/2, 1/4 or 1/8 of the size, whichever is still large enough.
            image.draft(None, (max_side, max_side))
            if image.size[0] == image.size[1] != width * height / max(size):
                return None
            stored = image.size
            upright = ImageOps.exif_transpose(image)
            return _shrink(upright, original, max_side, size if upright.size == stored else (height, width))
    except Exception:
        return None


def _shrink(
    image: Image.Image, original: Original, max_side: int | None, size: tuple[int, int] | None = None
) -> Upload | None:
    """Return a smaller JPEG of `image`, whose original has `size`; None if it is already small enough."""
    width, height = size = size or image.size
    if max_side is None or max(size) <= max_side or image.mode not in _EIGHT_BIT_MODES:
        return None
    scale = max_side / max(size)
    target = max(1, round(scale * width)), max(1, round(scale * height))
    smaller = _opaque(image).resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = BytesIO()
    smaller.save(out, "JPEG", quality=92)
    return Upload(out.getvalue(), original, size)


def _opaque(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparent pixels over white, as the server does."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
