"""Public-domain photos from scikit-image, as the benchmarks upload them."""

from io import BytesIO

import skimage.data
from PIL import Image


def photo(name: str) -> Image.Image:
    """Return one of scikit-image's sample photos: chelsea (a cat), coffee or astronaut."""
    return Image.fromarray(getattr(skimage.data, name)())


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an image as JPEG."""
    out = BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
