"""scikit-image's sample photos, and image files."""

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
