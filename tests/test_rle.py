"""Run-length encoding produces the same characters as pycocotools, and decodes them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from foursight.schema import Rle, rle
from tests.helpers import coco_rle

SHAPES = [(1, 1), (1, 7), (7, 1), (13, 17), (64, 48), (31, 100)]


def single(shape: tuple[int, int], row: int, column: int) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[row, column] = True
    return mask


def large() -> NDArray[np.bool_]:
    """Return a mask with runs of more than 2 ** 20 pixels, which take five characters."""
    mask = np.zeros((3000, 2000), dtype=bool)
    mask[1000:1003, 900:905] = True
    return mask


MASKS = {
    **{f"{h} x {w}, {p}": np.random.default_rng(0).random((h, w)) < p for h, w in SHAPES for p in (0.02, 0.5, 0.98)},
    **{f"empty {h} x {w}": np.zeros((h, w), dtype=bool) for h, w in SHAPES},
    **{f"full {h} x {w}": np.ones((h, w), dtype=bool) for h, w in SHAPES},
    **{f"corner {r}, {c}": single((13, 17), r, c) for r in (0, -1) for c in (0, -1)},
    "upper row": single((13, 17), 0, slice(None)),
    "lower row": single((13, 17), -1, slice(None)),
    "left column": single((13, 17), slice(None), 0),
    "right column": single((13, 17), slice(None), -1),
    "two columns that touch": single((13, 17), slice(None), slice(4, 6)),
    "large": large(),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_encoded_as_pycocotools_encodes_it(name: str) -> None:
    assert rle.encode(MASKS[name]).model_dump() == coco_rle(MASKS[name])


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_pycocotools_encoded_is_decoded(name: str) -> None:
    decoded = rle.decode(Rle(**coco_rle(MASKS[name])))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, MASKS[name])


@pytest.mark.parametrize("name", ["13 x 17, 0.5", "full 13 x 17", "lower row", "right column", "empty 1 x 7"])
@pytest.mark.parametrize(
    ("above", "below", "left", "right"),
    [(0, 0, 0, 0), (5, 0, 0, 0), (0, 5, 0, 0), (0, 0, 5, 0), (0, 0, 0, 5), (3, 4, 5, 6), (0, 0, 5, 6), (3, 4, 0, 0)],
)
def test_a_part_is_encoded_like_the_whole_mask_around_it(
    name: str, above: int, below: int, left: int, right: int
) -> None:
    part = MASKS[name]
    whole = np.pad(part, ((above, below), (left, right)))
    assert rle.encode_part(part, left, above, *whole.shape).model_dump() == coco_rle(whole)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_a_part_without_pixels_is_an_empty_mask(shape: tuple[int, int]) -> None:
    part = np.zeros(shape, dtype=bool)
    assert rle.encode_part(part, 2, 3, 13, 17).model_dump() == coco_rle(np.zeros((13, 17), dtype=bool))


def test_pycocotools_measures_the_area_of_the_mask() -> None:
    mask = MASKS["64 x 48, 0.5"]
    assert coco_mask.area(rle.encode(mask).model_dump()) == mask.sum()


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ("", "no runs"),
        ("9", "9 pixels of 12"),
        ("=", "13 pixels of 12"),
        ("73", "7 + 3 pixels of 12"),
        ("5O8", "5 - 1 + 8 pixels: the sum is right, a run is negative"),
        ("oooooooooooooooooooooooo0", "a number beyond 64 bits"),
        ("é", "no ASCII"),
    ],
)
def test_runs_that_do_not_add_up_to_the_mask_are_an_error(counts: str, why: str) -> None:
    assert rle.decode(Rle(size=(3, 4), counts="<")).sum() == 0
    with pytest.raises(ValueError, match=r"3 x 4|ascii"):
        rle.decode(Rle(size=(3, 4), counts=counts))
