"""Decoding: from the bytes of a file to an upright RGB image. All images are decoded here."""

import struct
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, features

from foursight.models.errors import ImageError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF") + (("AVIF",) if features.check("avif") else ())
READABLE = ", ".join(FORMATS)

# First bytes that prove one of FORMATS: (offset, magic bytes, name).
_SUPPORTED = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WEBP"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
)
# First bytes of other files that people upload: (offset, magic bytes, name).
_UNSUPPORTED = (
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


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame of a file to mode RGB: EXIF orientation applied, alpha composited over white.

    Raises ImageError: empty_body, not_an_image, unsupported_image_type, truncated_image, too_many_pixels.
    """
    return _load(_open(data, max_pixels), data)


def decode_for(data: bytes, short_side: int, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode` does, at a lower resolution if that leaves `short_side` pixels of the shorter side.

    A JPEG is decoded to a half, a quarter or an eighth of its sides, which saves most of the time and the memory; other
    formats are decoded in full. Returns the image and the (width, height) of the upright original. Raises ImageError as
    `decode` does.
    """
    opened = _open(data, max_pixels)
    width, height = size = opened.size
    factor = reduction(size, short_side)
    # The last line detects a rotation by EXIF from the sides, so unequal sides must stay unequal.
    if width == height or -(-width // factor) != -(-height // factor):
        # `draft` does nothing unless the file is a JPEG.
        opened.draft(None, (width // factor, height // factor))
    stored = opened.size
    image = _load(opened, data)
    return image, (size if image.size == stored else (height, width))


def reduce(image: Image.Image, short_side: int) -> Image.Image:
    """Average an image down to a half, a quarter or an eighth of its sides; the shorter side keeps `short_side`."""
    factor = reduction(image.size, short_side)
    return image.reduce(factor) if factor > 1 else image


def reduction(size: tuple[int, int], short_side: int) -> int:
    """Return the largest of 8, 4, 2, 1 by which both sides can be divided so that the shorter keeps `short_side`."""
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or min(size) >= factor * short_side)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: alpha composited over white, samples of 16 and 32 bits scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[0] in "IF":
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header and check it."""
    if not data:
        raise ImageError("empty_body", "The image is empty.", f"Send the bytes of one image ({READABLE}).")
    try:
        image = _read_header(data)
    except Image.DecompressionBombError as error:
        raise _too_large(error) from error
    except Exception as error:
        raise _unreadable(data) from error
    if image is None:
        raise _unreadable(data)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"The image has {width} x {height} = {width * height:,} pixels.",
            f"At most {max_pixels:,} are accepted: scale the image down.",
        )
    return image


def _read_header(data: bytes) -> ImageFile.ImageFile | None:
    """Open a file with the first of Pillow's plugins that accepts it, as Image.open does; None if none does.

    Image.open would also apply Image.MAX_IMAGE_PIXELS, which belongs to the program that imports this package. (The
    plugins for TIFF and WebP still apply it, to tiles and at twice its value; it is above our default limit.)
    """
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(data[:16]) is True:
                return factory(BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    return None


def _load(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise _too_large(error) from error
    except Exception as error:
        raise _truncated(data, str(image.format)) from error
    return to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF data says nothing about the orientation, and the pixels are intact.
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    samples = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        # 32-bit samples have no nominal range. Samples in 0..255 (fractions: in 0..1) keep their scale, others are
        # scaled by their own minimum and maximum.
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        if low >= 0 and high <= 255:
            low, high = 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0
    scaled = (np.nan_to_num(samples, nan=low, posinf=high, neginf=low) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _unreadable(data: bytes) -> ImageError:
    for offset, magic, name in _SUPPORTED:
        if name in FORMATS and data[offset : offset + len(magic)] == magic:
            return _truncated(data, name)
    for offset, magic, name in _UNSUPPORTED:
        if data[offset : offset + len(magic)].lower() == magic.lower():
            return ImageError(
                "unsupported_image_type", f"The file is {name}, which is not supported.", f"Send one of {READABLE}."
            )
    head = data[:12]
    printable = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in head)
    return ImageError(
        "not_an_image",
        f"The {len(data):,} bytes are not an image: they begin with {head.hex(' ')} ({printable!r}).",
        f"Send the bytes of one image ({READABLE}).",
    )


def _too_large(error: Image.DecompressionBombError) -> ImageError:
    return ImageError("too_many_pixels", f"{error}.", "Scale the image down.")


def _truncated(data: bytes, name: str) -> ImageError:
    return ImageError(
        "truncated_image",
        f"The {name} image is truncated or damaged ({len(data):,} bytes).",
        "Send the whole file, and check that it opens in a viewer.",
    )
