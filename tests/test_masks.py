"""Masks in COCO's two formats: pycocotools reads the same object from both."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask

from foursight.models.results import BoxMask
from foursight.serving import masks
from tests.helpers import coco_rle, iou

HEIGHT, WIDTH = 240, 320


def blob(seed: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a smooth random shape without holes: bool [h, w] for a `size` of (width, height)."""
    chance = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = sum(chance.uniform(-0.12, 0.12) * np.cos(n * angles + chance.uniform(0, 6)) for n in range(2, 5))
    x = size[0] / 2 * (1 + (0.6 + waves) * np.cos(angles))
    y = size[1] / 2 * (1 + (0.6 + waves) * np.sin(angles))
    image = Image.new("L", size)
    ImageDraw.Draw(image).polygon(list(zip(x, y, strict=True)), fill=255)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(2))) > 127


def rasterised(polygons: list[list[float]]) -> NDArray[np.bool_]:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH))).astype(bool)


@pytest.mark.parametrize("size", [(40, 40), (60, 150), (200, 90), (230, 230)])
@pytest.mark.parametrize("seed", range(4))
def test_polygons_cover_the_object(seed: int, size: tuple[int, int]) -> None:
    mask = BoxMask(seed * 17, seed * 3, blob(seed, size))
    polygons = masks.to_polygons(mask)
    assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in polygons)
    # 40 pixels across have an outline of 120 pixels around an area of 700: COCO's rasteriser decides by pixel corners.
    assert iou(rasterised(polygons), mask.full(HEIGHT, WIDTH)) > (0.97 if min(size) > 50 else 0.95)


@pytest.mark.parametrize("corner", [(0, 0), (WIDTH - 80, 0), (0, HEIGHT - 80), (WIDTH - 80, HEIGHT - 80)])
def test_polygons_of_an_object_at_the_edge_of_the_photo_reach_the_edge(corner: tuple[int, int]) -> None:
    mask = BoxMask(*corner, np.ones((80, 80), dtype=bool))
    (polygon,) = masks.to_polygons(mask)
    assert (min(polygon[::2]), max(polygon[::2])) == (corner[0], corner[0] + 80)
    assert (min(polygon[1::2]), max(polygon[1::2])) == (corner[1], corner[1] + 80)
    assert iou(rasterised([polygon]), mask.full(HEIGHT, WIDTH)) > 0.97


def test_polygons_enclose_the_area_of_the_pixels() -> None:
    mask = BoxMask(30, 20, blob(5, (120, 140)))
    (polygon,) = masks.to_polygons(mask)
    x, y = np.array(polygon[::2]), np.array(polygon[1::2])
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert area == pytest.approx(mask.bitmap.sum(), rel=0.01)


def test_an_object_in_two_pieces_has_two_polygons() -> None:
    bitmap = np.zeros((100, 160), dtype=bool)
    bitmap[10:90, 10:70] = True
    bitmap[20:60, 90:150] = True
    mask = BoxMask(50, 60, bitmap)
    polygons = masks.to_polygons(mask)
    assert len(polygons) == 2
    assert iou(rasterised(polygons), mask.full(HEIGHT, WIDTH)) > 0.97


def test_a_hole_is_filled() -> None:
    bitmap = np.ones((100, 100), dtype=bool)
    filled = BoxMask(50, 60, bitmap.copy()).full(HEIGHT, WIDTH)
    bitmap[30:60, 40:70] = False
    polygons = masks.to_polygons(BoxMask(50, 60, bitmap))
    assert len(polygons) == 1
    assert iou(rasterised(polygons), filled) > 0.97


def test_a_single_pixel_has_a_polygon_around_its_centre() -> None:
    (polygon,) = masks.to_polygons(BoxMask(7, 9, np.ones((1, 1), dtype=bool)))
    assert np.mean(polygon[::2]) == pytest.approx(7.5)
    assert np.mean(polygon[1::2]) == pytest.approx(9.5)


@pytest.mark.parametrize("shape", [(10, 10), (0, 10), (0, 0)])
def test_an_empty_mask_has_no_polygon(shape: tuple[int, int]) -> None:
    assert masks.to_polygons(BoxMask(5, 5, np.zeros(shape, dtype=bool))) == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("corner", [(0, 0), (37, 51), (WIDTH - 120, HEIGHT - 90)])
def test_rle_is_what_pycocotools_makes_of_the_whole_mask(seed: int, corner: tuple[int, int]) -> None:
    left, top = corner
    bitmap = blob(seed, (120, 90))
    whole = np.zeros((HEIGHT, WIDTH), dtype=bool)
    whole[top : top + 90, left : left + 120] = bitmap
    mask = BoxMask(left, top, bitmap)
    assert masks.to_rle(mask, HEIGHT, WIDTH).model_dump() == coco_rle(whole)
    np.testing.assert_array_equal(mask.full(HEIGHT, WIDTH), whole)
