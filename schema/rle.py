"""COCO's compressed run-length encoding of masks, in numpy alone.

The format is that of pycocotools. The mask is read in column-major order, starting with a run of zeros. From the
fourth on, each run is stored as the difference to the run two before. A number is stored in groups of 5 bits, the
lowest first, with bit 5 set if more groups follow. Each group is a character, counting from "0" (48).
"""

import numpy as np
from numpy.typing import NDArray

from foursight.schema import Rle

Mask = NDArray[np.bool_]


def encode(mask: Mask) -> Rle:
    """Encode a mask, bool [H, W], as COCO's compressed RLE."""
    height, width = mask.shape
    return encode_part(mask, 0, 0, height, width)


def encode_part(part: Mask, left: int, top: int, height: int, width: int) -> Rle:
    """Encode a mask [`height`, `width`] that equals `part`, bool [h, w], at (`left`, `top`) and is False elsewhere.

    Reads only the columns that `part` covers, so the cost depends on the object and not on the image.
    """
    columns = np.zeros((part.shape[1], height), dtype=np.bool_)
    columns[:, top : top + part.shape[0]] = part.T
    flat = columns.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat.size and flat[0]:
        edges = np.concatenate(([0], edges))
    offset = left * height
    ends = np.concatenate((edges + offset, [height * width]))
    # If the last pixel of the columns is set, its run ends there, not at the end of the image.
    if flat.size and flat[-1] and offset + flat.size < height * width:
        ends = np.insert(ends, -1, offset + flat.size)
    return Rle(size=(height, width), counts=_compress(np.diff(ends, prepend=0)))


def decode(rle: Rle) -> Mask:
    """Decode to bool [H, W]. Raises ValueError if the runs do not add up to the size."""
    height, width = rle.size
    runs = _expand(rle.counts)
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"the runs of the mask do not add up to {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _compress(runs: NDArray[np.int64]) -> str:
    deltas = runs.copy()
    deltas[3:] -= runs[1:-2]
    characters = bytearray()
    for delta in deltas.tolist():
        value, more = delta, True
        while more:
            group = value & 0x1F
            value >>= 5
            # Bit 4 of the last group is the sign.
            more = value != (-1 if group & 0x10 else 0)
            characters.append(48 + (group | (0x20 if more else 0)))
    return characters.decode("ascii")


def _expand(counts: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        group = character - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & 0x20:
            if group & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
