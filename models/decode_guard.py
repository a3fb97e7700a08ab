"""What decoding may cost: bounds that are checked in the header, and a clock that ends a decode from within.

Pillow asks its file for a few kilobytes at a time. A file that answers with an error when the time is over, or when
nobody waits for the image any more, ends the decode there. WebP, AVIF and compressed TIFF are read as a whole: their
time is bounded by the image's pixels, tiles and sides alone.
"""

import re
import struct
from io import BytesIO
from time import monotonic

# Longer sides than a JPEG can have are no photos, and some decoders have a high cost per row.
MAX_SIDE = 65_535
# Encoders write up to about 20; an empty scan of 75 bytes costs as much time as one with content.
MAX_SCANS = 32
# Pixels of all scans together; each scan visits every block of the image.
MAX_SCAN_PIXELS = 800_000_000
# Bytes of a progressive JPEG between two looks at the clock. A kilobyte can hold a dozen scans.
PROGRESSIVE_CHUNK = 1024
MAX_TILES = 65_536
DECODE_SECONDS = 10

# A marker: 0xFF and a code, but not a stuffed zero, a fill byte or a restart marker, which occur within a scan.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# StripOffsets and TileOffsets.
_OFFSETS = (273, 324)


class DecodeTimeout(Exception):
    """The decode took longer than its guard allows."""


class DecodeCancelled(Exception):
    """Nobody waits for the image any more."""


class LargeImage(Exception):
    """The image has more pixels than its guard lets pass; nothing was decoded."""


class Guard:
    """Bounds one decode to `seconds`. It may be cancelled from another thread.

    With `large`, an image of more pixels raises LargeImage before it is decoded.
    """

    def __init__(self, seconds: float = DECODE_SECONDS, large: int | None = None) -> None:
        self.seconds = seconds
        self._large = large
        self._ends = monotonic() + seconds
        self._cancelled = False

    def cancel(self) -> None:
        """End the decode, if it runs, at its next read."""
        self._cancelled = True

    def start(self) -> None:
        """Start the clock, again. Raises DecodeCancelled."""
        self._ends = monotonic() + self.seconds
        self.check()

    def let_large_pass(self) -> None:
        """Let an image of any size pass."""
        self._large = None

    def opened(self, pixels: int) -> None:
        """Raise LargeImage if the image has too many pixels."""
        if self._large is not None and pixels > self._large:
            raise LargeImage

    def check(self) -> None:
        """Raise DecodeTimeout or DecodeCancelled."""
        if self._cancelled:
            raise DecodeCancelled
        if monotonic() > self._ends:
            raise DecodeTimeout


class GuardedFile(BytesIO):
    """A file in memory that can be read as long as its guard allows."""

    def __init__(self, data: bytes, guard: Guard) -> None:
        super().__init__(data)
        self._guard = guard

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes. Raises DecodeTimeout and DecodeCancelled."""
        self._guard.check()
        return super().read(size)


def count_scans(data: bytes, start: int, limit: int = MAX_SCANS) -> int:
    """Return the number of scans of a JPEG from the offset `start`, at or before its first scan; at most limit + 1."""
    scans = 0
    while scans <= limit and (found := _MARKER.search(data, start)):
        code = data[found.start() + 1]
        if code == _END_OF_IMAGE:
            break
        scans += code == _START_OF_SCAN
        # The two bytes after a marker are the length of its segment, which includes them.
        start = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return scans


def count_tiles(data: bytes) -> int:
    """Return the number of strips or tiles that the first directory of a TIFF lists; 0 if it cannot be read."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (version,) = struct.unpack_from(order + "H", data, 2)
        big = version == 43
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        entry = struct.Struct(order + ("HHQ8x" if big else "HHI4x"))
        first = start + (8 if big else 2)
        tags = (entry.unpack_from(data, first + index * entry.size) for index in range(min(entries, 65_535)))
        return max((count for tag, _, count in tags if tag in _OFFSETS), default=0)
    except struct.error:
        return 0
