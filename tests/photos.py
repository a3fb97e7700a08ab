"""Photos for tests: scikit-image's own, and their bytes."""

from io import BytesIO
from typing import Any

import skimage.data
from PIL import Image


def photo(name: str) -> Image.Image:
    """A photo that scikit-image carries: chelsea (a cat), coffee, astronaut."""
    return Image.fromarray(getattr(skimage.data, name)())


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    if kind == "PNG":
        options.setdefault("compress_level", 1)
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
