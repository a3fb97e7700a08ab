"""Decoding: from the bytes of a file to an upright RGB image. All images are decoded here."""

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps, features

from foursight.models.decode_guard import (
    MAX_SCAN_PIXELS,
    MAX_SCANS,
    MAX_SIDE,
    MAX_TILES,
    PROGRESSIVE_CHUNK,
    DecodeCancelled,
    DecodeTimeout,
    Guard,
    GuardedFile,
    count_scans,
    count_tiles,
)
from foursight.models.errors import ImageError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF") + (("AVIF",) if features.check("avif") else ())
READABLE = ", ".join(FORMATS)
# Pixels that are converted at once: the intermediate copies of a large image would take many times its size.
BAND_PIXELS = 1_000_000

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


def decode(data: bytes, max_pixels: int = MAX_PIXELS, guard: Guard | None = None) -> Image.Image:
    """Decode the first frame of a file to mode RGB: EXIF orientation applied, alpha composited over white.

    Raises ImageError: empty_body, not_an_image, unsupported_image_type, truncated_image, too_many_pixels,
    side_too_long, too_many_scans, too_many_tiles, decode_timeout, out_of_memory. With a guard: DecodeCancelled and
    LargeImage.
    """
    return _decode(data, max_pixels, guard or Guard())[0]


def decode_for(
    data: bytes, short_side: int, max_pixels: int = MAX_PIXELS, guard: Guard | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode as `decode` does, at a lower resolution if that leaves `short_side` pixels of the shorter side.

    A JPEG is decoded to a half, a quarter or an eighth of its sides, which saves most of the time and the memory; other
    formats are decoded in full. Returns the image and the (width, height) of the upright original. Raises as `decode`
    does.
    """
    return _decode(data, max_pixels, guard or Guard(), short_side)


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
        return _in_bands(image, "RGB", _over_white)
    return image.convert("RGB")


def _decode(
    data: bytes, max_pixels: int, guard: Guard, short_side: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a file, or what can be mended of it. Returns the image and the upright original's (width, height)."""
    try:
        return _decode_intact(data, max_pixels, guard, short_side)
    except ImageError as error:
        mended = _mend(data) if error.code == "truncated_image" else []
        try:
            images = [_decode_intact(one, max_pixels, guard, short_side) for one in mended]
        except ImageError:
            raise error from None
        if not images or any(ImageChops.difference(images[0][0], image).getbbox() for image, _ in images[1:]):
            raise
        return images[0]


def _decode_intact(
    data: bytes, max_pixels: int, guard: Guard, short_side: int | None
) -> tuple[Image.Image, tuple[int, int]]:
    opened = _open(data, max_pixels, guard)
    width, height = size = opened.size
    factor = reduction(size, short_side) if short_side else 1
    # The last line detects a rotation by EXIF from the sides, so unequal sides must stay unequal.
    if factor > 1 and (width == height or -(-width // factor) != -(-height // factor)):
        # `draft` does nothing unless the file is a JPEG.
        opened.draft(None, (width // factor, height // factor))
    stored = opened.size
    image = _load(opened, data, guard)
    return image, (size if image.size == stored else (height, width))


def _mend(data: bytes) -> list[bytes]:
    """Return a damaged file without the damage that leaves all pixels intact; [] if there is none.

    The results must all decode to the same pixels.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return [_without_metadata(data)]
    if data.startswith(b"\xff\xd8\xff"):
        # Perhaps only the end marker is missing. Then whatever follows the last pixel is ignored; otherwise, the
        # missing pixels depend on it.
        data = data.removesuffix(b"\xff")
        return [data + b"\xff\xd9", data + 4096 * b"\x5a\xa3" + b"\xff\xd9"]
    return []


def _without_metadata(png: bytes) -> bytes:
    """Return a PNG without the chunks that are not needed for its pixels: Pillow refuses long texts and profiles."""
    kept = [png[:8]]
    start = 8
    while start + 12 <= len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        name = png[start + 4 : start + 8]
        # A capital first letter marks a chunk as necessary.
        if name[:1].isupper() or name in (b"tRNS", b"eXIf"):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _open(data: bytes, max_pixels: int, guard: Guard) -> ImageFile.ImageFile:
    """Read the header and check it."""
    if not data:
        raise ImageError("empty_body", "The image is empty.", f"Send the bytes of one image ({READABLE}).")
    try:
        image = _read_header(GuardedFile(data, guard))
    except Image.DecompressionBombError as error:
        raise _too_large(error) from error
    except DecodeTimeout:
        raise _too_slow(guard) from None
    except (DecodeCancelled, ImageError):
        raise
    except MemoryError:
        raise _out_of_memory() from None
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
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            "side_too_long",
            f"The image has {width} x {height} pixels.",
            f"A side has at most {MAX_SIDE:,}: cut the image into parts.",
        )
    if image.info.get("progressive"):
        _check_progressive(image, data)
    guard.opened(width * height)
    return image


def _check_progressive(image: ImageFile.ImageFile, data: bytes) -> None:
    width, height = image.size
    limit = min(MAX_SCANS, MAX_SCAN_PIXELS // (width * height))
    assert image.fp is not None
    # Pillow has read the marker of the first scan.
    if count_scans(data, image.fp.tell() - 2, limit) > limit:
        raise ImageError(
            "too_many_scans",
            f"The progressive JPEG of {width} x {height} pixels has more than {limit} scans.",
            "Save it again with the usual settings of an encoder.",
        )
    image.decodermaxblock = PROGRESSIVE_CHUNK


def _read_header(file: GuardedFile) -> ImageFile.ImageFile | None:
    """Open a file with the first of Pillow's plugins that accepts it, as Image.open does; None if none does.

    Image.open would also apply Image.MAX_IMAGE_PIXELS, which belongs to the program that imports this package. (The
    plugins for TIFF and WebP still apply it, to tiles and at twice its value; it is above our default limit.)
    """
    Image.init()
    prefix = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            if accept is None or accept(prefix) is True:
                if name == "TIFF":
                    _check_tiff(file.getvalue())
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    return None


def _check_tiff(data: bytes) -> None:
    _silence_libtiff()
    tiles = count_tiles(data)
    if tiles > MAX_TILES:
        raise ImageError(
            "too_many_tiles",
            f"The TIFF has {tiles:,} strips or tiles.",
            f"At most {MAX_TILES:,} are accepted: save it with more rows in each strip.",
        )


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from writing a line to standard error for each fault in a file, which can be millions.

    Pillow's wheels contain a libtiff of their own; a distribution's Pillow uses the system's.
    """
    own = sorted((Path(Image.__file__).parent.parent / "pillow.libs").glob("libtiff*.so*"))
    try:
        libtiff = ctypes.CDLL(str(own[0]) if own else "libtiff.so.6")
    except OSError:
        return
    for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
        getattr(libtiff, name)(None)


def _load(image: ImageFile.ImageFile, data: bytes, guard: Guard) -> Image.Image:
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise _too_large(error) from error
    except DecodeTimeout:
        raise _too_slow(guard) from None
    except DecodeCancelled:
        raise
    except MemoryError:
        raise _out_of_memory() from None
    except Exception as error:
        raise _truncated(data, str(image.format)) from error
    try:
        return to_rgb(_upright(image))
    except MemoryError:
        raise _out_of_memory() from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:
        # Broken EXIF data says nothing about the orientation, and the pixels are intact.
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    low, high = _range_of(image)

    def scale(band: Image.Image) -> Image.Image:
        samples = np.nan_to_num(np.asarray(band, dtype=np.float64), nan=low, posinf=high, neginf=low)
        scaled = (samples - low) * (255 / max(high - low, 1e-12))
        return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))

    return _in_bands(image, "L", scale)


def _range_of(image: Image.Image) -> tuple[float, float]:
    """Return the samples that become 0 and 255."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    # 32-bit samples have no nominal range. Samples in 0..255 (fractions: in 0..1) keep their scale, others are scaled
    # by their own minimum and maximum.
    low, high = np.inf, -np.inf
    for box in _bands(image.size):
        samples = np.asarray(image.crop(box), dtype=np.float64)
        finite = samples[np.isfinite(samples)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        low, high = 0.0, 0.0
    if low >= 0 and high <= 255:
        return 0.0, 1.0 if image.mode == "F" and high <= 1 else 255.0
    return low, high


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _in_bands(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image to `mode` by parts, so that the copies on the way stay small."""
    boxes = _bands(image.size)
    if len(boxes) == 1:
        return convert(image)
    converted = Image.new(mode, image.size)
    for box in boxes:
        converted.paste(convert(image.crop(box)), box)
    return converted


def _bands(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    width, height = size
    rows = max(1, BAND_PIXELS // width)
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]


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


def _too_slow(guard: Guard) -> ImageError:
    return ImageError(
        "decode_timeout",
        f"Decoding the image took longer than {guard.seconds:g} s.",
        "Scale the image down, or save it again with the usual settings of an encoder.",
    )


def _out_of_memory() -> ImageError:
    return ImageError(
        "out_of_memory", "The server has too little memory to decode this image now.", "Try again, or scale it down."
    )


def _truncated(data: bytes, name: str) -> ImageError:
    return ImageError(
        "truncated_image",
        f"The {name} image is truncated or damaged ({len(data):,} bytes).",
        "Send the whole file, and check that it opens in a viewer.",
    )
