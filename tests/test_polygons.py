"""Polygons to masks, compared with scikit-image and with the masks of the server's polygons."""

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage.draw import polygon2mask

from foursight.models.results import BoxMask
from foursight.schema import polygons
from foursight.serving import masks


@pytest.mark.parametrize("seed", range(8))
def test_an_outline_is_filled_as_by_scikit_image(seed: int) -> None:
    # Some corners are outside the image. In scikit-image, pixel centres are integers.
    points = np.random.default_rng(seed).uniform(-20, 120, (7, 2))
    expected = polygon2mask((100, 90), points[:, ::-1] - 0.5)
    assert np.array_equal(polygons.fill([points.ravel().tolist()], 100, 90), expected)


@pytest.mark.parametrize("seed", range(8))
def test_the_servers_polygons_cover_exactly_the_mask_with_its_holes_filled(seed: int) -> None:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(60, 70)), 3)
    mask = noise > 0.03
    outlines = masks.to_polygons(BoxMask(left=0, top=0, bitmap=mask))
    assert np.array_equal(polygons.fill(outlines, 60, 70), binary_fill_holes(mask))


def test_polygons_without_area_fill_nothing() -> None:
    assert not polygons.fill([], 5, 5).any()
    assert not polygons.fill([[1, 1, 4, 4], [2, 2, 2, 2, 2, 2]], 5, 5).any()
