"""From the bytes of an upload to an upright RGB image: the only place where pictures are decoded."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from foursight.models.errors import ImageError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF") + (("AVIF",) if features.check("avif") else ())
READABLE = ", ".join(FORMATS)

# How files of our own formats begin, where that alone proves the format: (offset, magic bytes, name).
_OURS = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WEBP"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
)
# Pictures and documents that people do upload and that we do not read: (offset, magic bytes, name).
_FOREIGN = (
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "a video"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML or SVG"),
)

# The limit on pixels is our own, checked from the header: Pillow's would warn first and raise later.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of `data` to mode RGB, EXIF orientation applied, alpha laid over white.

    Raises ImageError: empty_body, not_an_image, unsupported_image_type, truncated_image, too_many_pixels.
    """
    return _load(_open(data, max_pixels), data)


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header only."""
    if not data:
        raise ImageError("empty_body", "The image is empty.", f"Send the bytes of one photo ({READABLE}).")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise _refusal(data) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"The image has {width} x {height} = {width * height:,} pixels.",
            f"At most {max_pixels:,} are accepted: scale it down before the upload.",
        )
    return image


def _load(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    try:
        image.load()
    except Exception as error:
        raise _damaged(data, str(image.format)) from error
    return to_rgb(_upright(image))


def decode_for(data: bytes, short_side: int, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode` does, for who needs no more than `short_side` pixels of a photo's shorter side.

    A JPEG is decoded to a half, a quarter or an eighth of its sides where so many are left, which spares most of the
    work and the memory. Gives the image and the (width, height) of the whole photo. Raises ImageError as `decode`.
    """
    opened = _open(data, max_pixels)
    width, height = size = opened.size
    factor = reduction(size, short_side)
    # Below, the sides tell whether EXIF has turned the photo: they must not become equal.
    if width == height or -(-width // factor) != -(-height // factor):
        # Does nothing where the file is no JPEG.
        opened.draft(None, (width // factor, height // factor))
    stored = opened.size
    image = _load(opened, data)
    return image, (size if image.size == stored else (height, width))


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """The image averaged to a half, a quarter or an eighth of its sides, where its shorter one keeps `short_side`."""
    factor = reduction(image.size, short_side)
    return image.reduce(factor) if factor > 1 else image


def reduction(size: tuple[int, int], short_side: int) -> int:
    """By what an image of `size` may be divided: 8, 4, 2 or 1, so that its shorter side keeps `short_side` pixels."""
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or min(size) >= factor * short_side)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: alpha over white, 16-bit and wider samples scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # EXIF that cannot be read says nothing of the orientation; the pixels are there.
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        # 32-bit samples have no nominal range: what lies within 0..255 (fractions: 0..1) is taken as it is, the rest by
        # its own extremes.
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if low >= 0 and high <= 255:
            low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0
    scaled = (np.nan_to_num(samples, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _damaged(data: bytes, name: str) -> ImageError:
    return ImageError(
        "truncated_image",
        f"The {name} image ends early or is damaged: {len(data):,} bytes arrived.",
        "Send the whole file; check that it opens in a viewer.",
    )


def _refusal(data: bytes) -> ImageError:
    for offset, magic, name in _OURS:
        if name in FORMATS and data[offset : offset + len(magic)] == magic:
            return _damaged(data, name)
    for offset, magic, name in _FOREIGN:
        if data[offset : offset + len(magic)].lower() == magic.lower():
            return ImageError(
                "unsupported_image_type", f"This is {name}, which is not supported.", f"Send one of {READABLE}."
            )
    head = data[:12]
    printable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    return ImageError(
        "not_an_image",
        f"The {len(data):,} bytes are no image that we can read: they begin with {head.hex(' ')} ({printable!r}).",
        f"Send the bytes of one photo ({READABLE}).",
    )
