"""What people hand over as an image, turned into the bytes of an upload."""

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from foursight.clients.sdk.errors import UnreadableImage


class Readable(Protocol):
    """A file, opened in binary mode."""

    def read(self) -> bytes:
        """All bytes that are left."""


ImageInput = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Image.Image | NDArray[np.uint8]
# What a photo can be drawn from again.
Photo = Path | bytes | Image.Image

_ORIENTATION = 0x0112
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
_EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_EXPECTED = "Give a path, an http(s) URL, bytes, a binary file, a PIL image or a numpy array, uint8 [H, W, 3]."


@dataclass(frozen=True)
class Upload:
    """The bytes to send. `size` is (width, height) of the upright original where it was shrunk, else None."""

    content: bytes
    photo: Photo
    size: tuple[int, int] | None = None


def is_url(image: ImageInput) -> bool:
    """Whether an image is to be fetched."""
    return isinstance(image, str) and image.startswith(("http://", "https://"))


def load(image: ImageInput, max_side: int | None = None) -> Upload:
    """Read an image, and shrink it where its longer side has more than `max_side` pixels.

    Files are sent as they are unless they are shrunk; then they go as JPEG, upright. PIL images and arrays go as PNG;
    their pixels are taken as they lie, whatever their EXIF says. Pictures with more than 8 bits for a sample are not
    shrunk. Bytes that are no picture are sent too: the server says best what they are.

    Raises UnreadableImage.
    """
    if max_side is not None and max_side < 1:
        raise ValueError(f"max_side is {max_side}; it is a number of pixels, at least 1")
    content: bytes
    photo: Photo
    match image:
        case Image.Image():
            return _shrunk(image, image, max_side) or Upload(_encoded(image), image)
        case np.ndarray():
            picture = _from_array(image)
            return _shrunk(picture, picture, max_side) or Upload(_encoded(picture), picture)
        case bytes() | bytearray() | memoryview():
            content = photo = bytes(image)
        case str() if is_url(image):
            raise UnreadableImage(f"{image} must be fetched first: a client does that for the images it asks about.")
        case str() | os.PathLike():
            path = photo = Path(image)
            content = _read(path)
        case _ if hasattr(image, "read"):
            content = photo = image.read()
            if not isinstance(content, bytes):
                raise UnreadableImage("The file is opened as text: open it in binary mode, 'rb'.")
        case _:
            raise UnreadableImage(f"A {type(image).__name__} is no image. {_EXPECTED}")
    return (_shrink_file(content, photo, max_side) if max_side else None) or Upload(content, photo)


def open_photo(photo: Photo) -> Image.Image:
    """The upright picture, in the frame of the answer's coordinates. Raises UnreadableImage."""
    if isinstance(photo, Image.Image):
        return photo
    try:
        with Image.open(BytesIO(photo) if isinstance(photo, bytes) else photo) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:
        name = "The bytes" if isinstance(photo, bytes) else photo
        raise UnreadableImage(f"{name} cannot be opened as a picture: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{path} cannot be read: {error.strerror or error}.") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    good = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if array.dtype != np.uint8 or not good or 0 in shape:
        raise UnreadableImage(
            f"An array of {array.dtype}, shape {list(array.shape)}, is no image: it must be uint8, [H, W, 3] in the "
            "order red, green, blue, or [H, W, 4] with alpha, or grey [H, W]."
        )
    return Image.fromarray(np.ascontiguousarray(array).reshape(shape))


def _encoded(image: Image.Image) -> bytes:
    out = BytesIO()
    if image.mode == "F":
        image.save(out, "TIFF")
    else:
        # Lossless, and as fast as PNG gets: the way to the server is rarely the bottleneck.
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _shrink_file(content: bytes, photo: Photo, max_side: int) -> Upload | None:
    try:
        with Image.open(BytesIO(content)) as image:
            if max(image.size) <= max_side:
                return None
            width, height = image.size
            size = (height, width) if image.getexif().get(_ORIENTATION, 1) >= 5 else (width, height)
            # A JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.
            image.draft(None, (max_side, max_side))
            return _shrunk(ImageOps.exif_transpose(image), photo, max_side, size)
    except Exception:
        # What Pillow cannot read here goes as it is: the server says best what it is.
        return None


def _shrunk(
    image: Image.Image, photo: Photo, max_side: int | None, size: tuple[int, int] | None = None
) -> Upload | None:
    """A smaller picture to send, or None where it is small enough already."""
    width, height = size = size or image.size
    if max_side is None or max(size) <= max_side or image.mode not in _EIGHT_BIT_MODES:
        return None
    scale = max_side / max(size)
    target = max(1, round(scale * width)), max(1, round(scale * height))
    smaller = _opaque(image).resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = BytesIO()
    smaller.save(out, "JPEG", quality=92)
    return Upload(out.getvalue(), photo, size)


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, alpha over white, as the server does it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
