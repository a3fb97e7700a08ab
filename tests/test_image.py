"""Decoding: an image is what Pillow shows, upright and in RGB; other file types are named when refused."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from foursight.models.errors import ImageError
from foursight.models.image import decode, decode_for
from tests.photos import encoded, photo

CAT = photo("chelsea").resize((91, 60))
# Transparency that varies between pixels.
ALPHA = Image.fromarray(np.linspace(0, 255, 91 * 60).reshape(60, 91).astype(np.uint8))

FILES = {
    "JPEG": encoded(CAT, "JPEG"),
    "progressive JPEG": encoded(CAT, "JPEG", progressive=True),
    "a telephone's JPEG with a second picture": encoded(CAT, "MPO", save_all=True, append_images=[CAT.rotate(180)]),
    "PNG": encoded(CAT, "PNG"),
    "WebP": encoded(CAT, "WEBP"),
    "lossless WebP": encoded(CAT, "WEBP", lossless=True),
    "BMP": encoded(CAT, "BMP"),
    "GIF": encoded(CAT, "GIF"),
    "TIFF": encoded(CAT, "TIFF"),
    "TIFF with LZW": encoded(CAT, "TIFF", compression="tiff_lzw"),
    "TIFF with JPEG": encoded(CAT, "TIFF", compression="jpeg"),
    "grey JPEG": encoded(CAT.convert("L"), "JPEG"),
    "grey PNG": encoded(CAT.convert("L"), "PNG"),
    "grey GIF": encoded(CAT.convert("L"), "GIF"),
    "1-bit PNG": encoded(CAT.convert("1"), "PNG"),
    "1-bit TIFF": encoded(CAT.convert("1"), "TIFF", compression="group4"),
    "PNG with a palette": encoded(CAT.quantize(16), "PNG"),
    "BMP with a palette": encoded(CAT.quantize(200), "BMP"),
    "CMYK JPEG": encoded(CAT.convert("CMYK"), "JPEG"),
    "CMYK TIFF": encoded(CAT.convert("CMYK"), "TIFF"),
    "YCbCr TIFF": encoded(CAT.convert("YCbCr"), "TIFF"),
}
if features.check("avif"):
    FILES["AVIF"] = encoded(CAT, "AVIF")


def pixels(image: Image.Image) -> NDArray[np.int64]:
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int64)


def raw_png(size: tuple[int, int], depth: int, colour: int, rows: NDArray[np.uint8]) -> bytes:
    """Return a PNG written by hand: `rows` holds each row's bytes, without the filter byte."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(samples: NDArray[np.generic], **options: object) -> bytes:
    return encoded(Image.fromarray(samples), "TIFF", **options)


def refusal(data: bytes, **options: int) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_those_of_pillow(kind: str) -> None:
    with Image.open(io.BytesIO(FILES[kind])) as opened:
        expected = opened.convert("RGB")
    decoded = decode(FILES[kind])
    assert decoded.size == CAT.size
    np.testing.assert_array_equal(pixels(decoded), pixels(expected))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(name: str, orientation: int) -> None:
    upright = np.asarray(CAT)
    # The pixels as a camera stores them, from the table in the EXIF standard (tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(name, {})
    decoded = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), name, exif=exif, **options))
    assert decoded.size == CAT.size
    assert np.abs(pixels(decoded) - upright).mean() < (2 if name == "JPEG" else 1e-9)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_ignored(name: str, exif: bytes) -> None:
    plain = decode(encoded(CAT, name))
    np.testing.assert_array_equal(pixels(decode(encoded(CAT, name, exif=exif))), pixels(plain))


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_over_white(name: str) -> None:
    image = CAT.copy()
    image.putalpha(ALPHA)
    share = np.asarray(ALPHA)[..., None] / 255
    expected = np.asarray(CAT) * share + 255 * (1 - share)
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    assert np.abs(pixels(decode(encoded(image, name, **options))) - expected).max() <= 1


def test_grey_with_alpha_is_composited_over_white() -> None:
    grey = CAT.convert("L")
    share = np.asarray(ALPHA) / 255
    expected = np.asarray(grey) * share + 255 * (1 - share)
    decoded = pixels(decode(encoded(Image.merge("LA", (grey, ALPHA)), "PNG")))
    assert np.abs(decoded - expected[..., None]).max() <= 1


@pytest.mark.parametrize("name", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_turns_white(name: str) -> None:
    image = CAT.quantize(16)
    indices = np.asarray(image)
    hole = int(np.bincount(indices.ravel()).argmax())
    decoded = pixels(decode(encoded(image, name, transparency=hole)))
    assert (decoded[indices == hole] == 255).all()
    np.testing.assert_array_equal(decoded[indices != hole], np.asarray(image.convert("RGB"))[indices != hole])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_without_a_palette_turns_white(mode: str) -> None:
    hole = 7 if mode == "L" else (7, 8, 9)
    image = CAT.convert(mode)
    image.paste(hole, (10, 20, 50, 40))
    decoded = pixels(decode(encoded(image, "PNG", transparency=hole)))
    assert (decoded[20:40, 10:50] == 255).all()
    np.testing.assert_array_equal(decoded[:20], np.asarray(image.convert("RGB"))[:20])


SIXTEEN = (np.arange(60 * 91).reshape(60, 91) * 12 + 3).astype(np.uint16)


def big_endian_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, SIXTEEN, byteorder=">")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [encoded(Image.fromarray(SIXTEEN), "PNG"), tiff(SIXTEEN), big_endian_tiff()],
    ids=["PNG", "TIFF", "big-endian TIFF"],
)
def test_grey_of_sixteen_bits_keeps_its_upper_eight(data: bytes) -> None:
    decoded = pixels(decode(data))
    assert np.abs(decoded - (SIXTEEN >> 8)[..., None]).max() <= 1


def test_colour_of_sixteen_bits_keeps_its_upper_eight() -> None:
    colour = np.stack([SIXTEEN, SIXTEEN[::-1], SIXTEEN[:, ::-1]], -1)
    data = raw_png((91, 60), 16, 2, np.ascontiguousarray(colour.astype(">u2")).view(np.uint8).reshape(60, -1))
    assert np.abs(pixels(decode(data)) - (colour >> 8)).max() <= 1


RAMP = np.linspace(0, 1, 60 * 91, dtype=np.float32).reshape(60, 91)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (RAMP, RAMP * 255),
        (RAMP / 2, RAMP * 127.5),
        (RAMP * 200, RAMP * 200),
        (RAMP * 9000 - 4000, RAMP * 255),
        ((RAMP * 9000).astype(np.int32), RAMP * 255),
        (np.where(RAMP > 0.9, np.nan, RAMP), np.where(RAMP > 0.9, 0, RAMP * 255)),
        (np.where(RAMP > 0.9, np.inf, RAMP * 100), np.where(RAMP > 0.9, 255, RAMP * 100)),
        (RAMP * 0 + np.float32(np.nan), RAMP * 0),
    ],
    ids=["0..1", "0..0.5", "0..200", "-4000..5000", "int32", "with NaN", "with infinity", "NaN only"],
)
def test_samples_of_thirty_two_bits_are_scaled_to_eight(samples: NDArray[np.generic], expected: NDArray) -> None:
    assert np.abs(pixels(decode(tiff(samples))) - expected[..., None]).max() <= 1


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_decoded(name: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], name, save_all=True, append_images=frames[1:])
    decoded = pixels(decode(data))
    assert decoded.shape == (30, 40, 3)
    assert np.abs(decoded - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        (b"", "empty_body", "empty"),
        (b"hello world, this is text", "not_an_image", "68 65 6c 6c 6f"),
        (b"<!doctype html><p>no photo", "not_an_image", "<!doctype ht"),
        (bytes(1000), "not_an_image", "1,000 bytes"),
        (b"%PDF-1.7\n%\xe2\xe3", "unsupported_image_type", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_image_type", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "unsupported_image_type", "video"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_image_type", "SVG"),
        (b'<?xml version="1.0"?><svg/>', "unsupported_image_type", "SVG"),
        (b"8BPS\0\1", "unsupported_image_type", "Photoshop"),
    ],
)
def test_other_files_are_refused_by_name(data: bytes, code: str, named: str) -> None:
    error = refusal(data)
    assert error.code == code
    assert named in error.detail
    assert "JPEG, PNG" in error.hint


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", sorted({"JPEG", "progressive JPEG", "PNG", "WebP", "GIF", "AVIF"} & FILES.keys()))
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = FILES[kind]
    error = refusal(data[: int(len(data) * share)])
    assert error.code == "truncated_image"
    assert kind.removeprefix("progressive ").lower() in error.detail.lower()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_decoded(progressive: bool, missing: int) -> None:
    data = encoded(CAT, "JPEG", progressive=progressive)
    assert np.array_equal(pixels(decode(data[:-missing])), pixels(decode(data)))
    with pytest.raises(ImageError) as caught:
        decode(data[: -missing - 2])
    assert caught.value.code == "truncated_image"


def test_long_texts_and_profiles_in_a_png_do_not_matter() -> None:
    notes = PngInfo()
    notes.add_text("Comment", "x" * 2_000_000, zip=True)
    notes.add_itxt("Description", "y" * 2_000_000, zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(CAT, "PNG", pnginfo=notes, exif=exif, icc_profile=bytes(2_000_000))
    # Also after the pixels, where Pillow reads it later.
    assert decode(data).size == (60, 91)
    end = data.index(b"IEND") - 4
    late = encoded(CAT, "PNG")
    late = late[:-12] + data[data.index(b"zTXt") - 4 : data.index(b"iTXt") - 4] + data[end:]
    assert np.array_equal(pixels(decode(late)), pixels(CAT))


def test_damaged_metadata_of_a_png_does_not_matter() -> None:
    notes = PngInfo()
    notes.add_text("Comment", "some text")
    data = encoded(CAT, "PNG", pnginfo=notes).replace(b"some text", b"same text")
    assert np.array_equal(pixels(decode(data)), pixels(CAT))


def test_a_damaged_png_is_refused_as_truncated() -> None:
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 0xFF
    assert refusal(bytes(data)).code == "truncated_image"


def test_too_many_pixels_are_refused_from_the_header() -> None:
    error = refusal(raw_png((60_000, 60_000), 8, 2, np.zeros((1, 300), np.uint8)))
    assert error.code == "too_many_pixels"
    assert "60000 x 60000" in error.detail
    assert "50,000,000" in error.hint


def test_the_limit_on_pixels_is_the_last_size_accepted() -> None:
    data = encoded(CAT)
    assert decode(data, max_pixels=91 * 60).size == CAT.size
    assert refusal(data, max_pixels=91 * 60 - 1).code == "too_many_pixels"


@pytest.mark.parametrize("kind", [kind for kind in FILES if "TIFF" not in kind])
def test_pillows_limit_on_pixels_is_not_applied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 91 * 60 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(FILES[kind]).size == CAT.size


def test_pillows_error_about_pixels_is_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow's plugins for WebP and TIFF check twice the limit themselves, when they read the header and the tiles.
    files = [encoded(CAT, kind) for kind in ("WEBP", "TIFF")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert [refusal(file).code for file in files] == ["too_many_pixels"] * 2


def test_large_images_are_refused_by_our_limit_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(raw_png((10_000, 6_000), 8, 0, np.zeros((1, 300), np.uint8))).code == "too_many_pixels"
        assert refusal(raw_png((10_000, 12_000), 8, 0, np.zeros((1, 300), np.uint8))).code == "too_many_pixels"
        assert decode(encoded(Image.new("L", (7000, 7000)))).size == (7000, 7000)


def test_importing_the_models_leaves_pillows_settings_alone() -> None:
    script = """
from PIL import Image, ImageFile
before = Image.MAX_IMAGE_PIXELS
ImageFile.LOAD_TRUNCATED_IMAGES = True
from foursight import models
models.decode(open(0, "rb").read())
assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (before, True)
assert before is not None
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=FILES["PNG"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def large(kind: str = "JPEG", **options: object) -> tuple[Image.Image, bytes]:
    """Return an image of 1804 x 1200 with detail at every scale, and its file."""
    whole = CAT.resize((1804, 1200), Image.Resampling.BICUBIC)
    whole.paste(photo("astronaut"), (100, 100))
    return whole, encoded(whole, kind, **options)


@pytest.mark.parametrize(
    ("short_side", "size"), [(150, (226, 150)), (151, (451, 300)), (600, (902, 600)), (601, (1804, 1200))]
)
def test_a_large_jpeg_is_decoded_at_a_lower_resolution(short_side: int, size: tuple[int, int]) -> None:
    whole, file = large(quality=90)
    image, original = decode_for(file, short_side)
    assert (image.size, original) == (size, whole.size)
    # A scaled inverse DCT of half the frequencies is close to the average over the same pixels.
    expected = np.asarray(whole.resize(size, Image.Resampling.BOX)).astype(float)
    assert np.abs(np.asarray(image) - expected).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_in_full(kind: str) -> None:
    whole, file = large(kind)
    image, original = decode_for(file, 100)
    assert image.size == original == whole.size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1804, 1200), (1201, 1200), (1200, 1200)])
def test_the_size_of_a_reduced_image_is_that_of_the_upright_original(orientation: int, size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(CAT.resize(size), "JPEG", exif=exif)
    image, original = decode_for(file, 100)
    assert original == decode(file).size
    assert abs(image.width / image.height - original[0] / original[1]) < 0.01


def test_a_truncated_large_jpeg_is_refused() -> None:
    _, file = large()
    with pytest.raises(ImageError) as caught:
        decode_for(file[: len(file) * 3 // 4], 100)
    assert caught.value.code == "truncated_image"
