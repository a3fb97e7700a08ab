"""scikit-image's sample photos, and image files."""

import struct
from io import BytesIO
from typing import Any

import skimage.data
from PIL import Image


def photo(name: str) -> Image.Image:
    """One of scikit-image's sample photos: chelsea (a cat), coffee or astronaut."""
    return Image.fromarray(getattr(skimage.data, name)())


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file."""
    if kind == "PNG":
        options.setdefault("compress_level", 1)
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def run_length_bmp(width: int = 30_000, height: int = 1_500) -> bytes:
    """A BMP whose every line ends at once: Pillow fills each up pixel by pixel."""
    body = b"\x01\x00\x00\x00" * height + b"\x00\x01"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + len(head) + 1024
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + head + bytes(1024) + body
