"""Files that are small and expensive: each is refused for what it is, before it has cost time or memory."""

import asyncio
import os
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foursight.models import decode_guard
from foursight.models.decode_guard import DecodeCancelled, Guard, LargeImage, count_scans
from foursight.models.errors import ImageError
from foursight.models.image import decode
from foursight.serving.decoding import LARGE_PIXELS, ImagePool
from tests.photos import encoded, photo, run_length_bmp

COFFEE = photo("coffee")


def segment(code: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def progressive(refinements: int, side: int = 256) -> bytes:
    """A black progressive JPEG with empty scans: the only code of its AC table ends a band of 2^14 blocks and more."""
    table = bytes([1, *bytes(15)])
    blocks = (side // 8) ** 2

    def scan(first: int, last: int, approximation: int, bits: str) -> bytes:
        padded = bits + "1" * (-len(bits) % 8)
        data = int(padded, 2).to_bytes(len(padded) // 8)
        return segment(0xDA, bytes([1, 1, 0, first, last, approximation])) + data.replace(b"\xff", b"\xff\x00")

    band = "0" + "1" * 14
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, bytes([0, *[1] * 64])),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00"),
            segment(0xC4, b"\x00" + table + b"\x00"),
            segment(0xC4, b"\x10" + table + b"\xe0"),
            scan(0, 0, 0, "0" * blocks),
            scan(1, 63, 0x01, band),
            scan(1, 63, 0x10, band) * refinements,
            b"\xff\xd9",
        )
    )


def tiff(strips: int) -> bytes:
    """A grey TIFF of 8 pixels whose directory lists this many strips."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, strips, 200)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory).ljust(200, b"\0") + bytes(4 * strips + 8)


def refusal(data: bytes, guard: Guard | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, guard=guard)
    return caught.value


def test_a_progressive_jpeg_of_empty_scans_is_refused_by_their_number() -> None:
    assert decode(progressive(8)).size == (256, 256)
    assert len(progressive(400)) < 10_000
    error = refusal(progressive(400))
    assert error.code == "too_many_scans"
    assert "32" in error.detail


def test_more_pixels_allow_fewer_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foursight.models.image.MAX_SCAN_PIXELS", 8 * 256 * 256)
    assert refusal(progressive(8)).code == "too_many_scans"


def test_scans_are_counted_up_to_the_end_of_the_first_picture() -> None:
    real = encoded(COFFEE, "JPEG", progressive=True)
    # libjpeg's script for colour images has 10 scans.
    assert count_scans(real, 2) == 10
    # A thumbnail, a comment and a second picture contain markers that do not count.
    comment = segment(0xFE, b"\xff\xda\x00\x04\x00\x00" * 100)
    assert count_scans(real[:2] + comment + real[2:] + real * 10, 2) == 10
    # A false end within a comment does not hide scans.
    bomb = progressive(400)
    at = bomb.index(b"\xff\xda", 300)
    assert count_scans(bomb[:at] + segment(0xFE, b"\xff\xd9") + bomb[at:], 2) > decode_guard.MAX_SCANS


def test_a_tiff_of_many_strips_is_refused_before_they_are_read() -> None:
    assert decode(tiff(1)).size == (8, 1)
    assert refusal(tiff(1_000_000)).code == "too_many_tiles"


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_a_side_that_no_photo_has_is_refused(size: tuple[int, int]) -> None:
    assert refusal(encoded(Image.new("L", size))).code == "side_too_long"
    assert decode(encoded(Image.new("L", (decode_guard.MAX_SIDE, 1)))).width == decode_guard.MAX_SIDE


SLOW = {
    "a run-length BMP": run_length_bmp(),
    "fill bytes in a JPEG": b"\xff\xd8" + b"\xff" * 30_000_000,
    "a PNG of a million chunks": encoded(COFFEE)[:33]
    + struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd")) * 1_000_000,
}


@pytest.mark.parametrize("name", SLOW)
def test_a_decode_ends_when_its_time_is_over(name: str) -> None:
    error = refusal(SLOW[name], Guard(seconds=0.05))
    assert (error.code, "0.05 s" in error.detail) == ("decode_timeout", True)


def test_a_decode_ends_when_nobody_waits_for_it() -> None:
    guard = Guard(seconds=3600)
    timer = threading.Timer(0.1, guard.cancel)
    timer.start()
    with pytest.raises(DecodeCancelled):
        decode(run_length_bmp(), guard=guard)


def test_a_request_that_ends_frees_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foursight.models.engines.environment.available_cpus", lambda: 1)
    slow, quick = run_length_bmp(), encoded(COFFEE)

    def decode_slowly(guard: Guard) -> Image.Image:
        guard.let_large_pass()
        return decode(slow, guard=guard)

    async def test() -> tuple[int, int]:
        pool = ImagePool(decode_seconds=3600)
        running = asyncio.create_task(pool.decode(decode_slowly))
        await asyncio.sleep(0.1)
        running.cancel()
        size = (await pool.decode(lambda guard: decode(quick, guard=guard))).size
        pool.close()
        return size

    assert asyncio.run(test()) == COFFEE.size


def test_a_small_image_does_not_wait_for_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foursight.models.engines.environment.available_cpus", lambda: 2)
    large, small = encoded(Image.new("1", (5000, LARGE_PIXELS // 5000 + 1))), encoded(COFFEE)
    gate, order = threading.Event(), []

    def work(data: bytes, guard: Guard) -> None:
        image = decode(data, guard=guard)
        if image.width == 5000:
            assert gate.wait(60)
        order.append(image.width)

    async def test() -> None:
        pool = ImagePool(decode_seconds=60)
        waiting = [asyncio.create_task(pool.decode(lambda guard: work(large, guard))) for _ in range(4)]
        await asyncio.sleep(0.1)
        await pool.decode(lambda guard: work(small, guard))
        gate.set()
        await asyncio.gather(*waiting)
        pool.close()

    asyncio.run(test())
    assert order == [COFFEE.width] + [5000] * 4


def test_a_large_image_is_named_before_it_is_decoded() -> None:
    data = encoded(COFFEE)
    with pytest.raises(LargeImage):
        decode(data, guard=Guard(large=1000))
    assert decode(data, guard=Guard(large=COFFEE.width * COFFEE.height)).size == COFFEE.size


def test_libtiff_writes_nothing_to_standard_error() -> None:
    damaged = bytearray(encoded(COFFEE.convert("1"), "TIFF", compression="group4"))
    damaged[8:2000] = os.urandom(1992)
    with tempfile.NamedTemporaryFile(suffix=".tif") as file:
        Path(file.name).write_bytes(damaged)
        program = (
            "import sys\nfrom pathlib import Path\nfrom foursight.models.image import decode\n"
            "try: decode(Path(sys.argv[1]).read_bytes())\nexcept Exception as error: print(type(error).__name__)"
        )
        done = subprocess.run([sys.executable, "-c", program, file.name], capture_output=True, text=True, check=True)
    assert done.stderr == ""


PEAK = """
import resource, sys
from foursight.models.image import decode
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = decode(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (image.width * image.height))
"""


@pytest.mark.parametrize("mode", ["I;16", "F", "LA"])
def test_a_conversion_takes_little_more_than_the_image(mode: str) -> None:
    """The samples, the image in RGB and a part of the way between: not the whole image as float64, several times."""
    image = Image.new(mode, (4000, 3000))
    data = encoded(image, "TIFF" if mode == "F" else "PNG")
    done = subprocess.run([sys.executable, "-c", PEAK], input=data, capture_output=True, check=True)
    assert float(done.stdout) < 14


def test_bands_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (120, 90)).astype(np.uint16)
    alpha = COFFEE.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(COFFEE.size))
    files = [encoded(Image.fromarray(samples)), encoded(alpha), encoded(Image.fromarray(samples.astype("f4")), "TIFF")]
    whole = [decode(data) for data in files]
    monkeypatch.setattr("foursight.models.image.BAND_PIXELS", 500)
    for data, image in zip(files, whole, strict=True):
        assert np.array_equal(np.asarray(decode(data)), np.asarray(image))


def test_a_lack_of_memory_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert refusal(encoded(COFFEE)).code == "out_of_memory"
