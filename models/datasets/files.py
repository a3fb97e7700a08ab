"""Read text and the sizes of images, with faults that name the file and the line."""

from pathlib import Path

from PIL import ExifTags, Image

from foursight.models.image import FORMATS

# EXIF orientations that swap width and height.
_TURNED = (5, 6, 7, 8)


class Fault(ValueError):
    """What is wrong with a file of a data set, as one line without its name."""


def text_of(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark. Raises Fault."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault(f"not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise Fault(f"cannot be read ({error.strerror})") from None


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return the (width, height) of an image with its EXIF orientation applied, or None if it is not an image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except Exception:
        # Pillow raises many kinds of errors for broken headers; decoding the image says what is wrong with it.
        return None
    return (height, width) if turned else (width, height)


def size_problem(path: Path, stated: tuple[int, int], by: str) -> str | None:
    """Return a line if an image has another (width, height) than `by` says."""
    actual = upright_size(path)
    if actual is None or actual == stated:
        return None
    shown = " x ".join(map(str, actual)), " x ".join(map(str, stated))
    return f"{path.name} is {shown[0]} pixels, {by} says {shown[1]}"
