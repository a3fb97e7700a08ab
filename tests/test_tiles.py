"""Sliced inference: where the tiles lie, how what they find is joined, and what it finds in a large image."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.ops import box_iou

from foursight import Client, models
from foursight.clients.sdk.errors import Rejected
from foursight.models.region import Region
from foursight.models.results import Predictions
from foursight.models.tasks import tiles
from foursight.models.tasks.masks import paste
from foursight.models.tasks.objects import RawDetections
from foursight.serving import web
from tests.conftest import MAX_QUEUE
from tests.helpers import iou
from tests.photos import encoded

WIDTH, HEIGHT = 4000, 3000
SIDE = 28


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (100, 100), (5000, 300), (7, 2000), (3, 2)])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_tiles_cover_the_image_and_overlap(size: tuple[int, int], count: int) -> None:
    whole, *parts = tiles.views(size, count)
    assert whole == (0, 0, *size)
    covered = np.zeros(size[::-1], dtype=np.uint8)
    for x1, y1, x2, y2 in parts:
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    assert len(parts) <= tiles.count_views(count) - 1
    if min(size) >= 100:
        # An object of a tenth of a tile is never cut by all tiles that it lies in.
        small = max(1, (parts[0][2] - parts[0][0]) // 10)
        for x in range(0, size[0] - small, small):
            assert any(x1 <= x and x + small <= x2 for x1, _, x2, _ in parts)


def test_one_tile_is_the_image() -> None:
    assert tiles.views((640, 480), 1) == [(0, 0, 640, 480)]
    assert tiles.count_views(1) == 1


def ellipse(box: NDArray[np.float32], size: tuple[int, int] = (WIDTH, HEIGHT)) -> NDArray[np.bool_]:
    image = Image.new("1", size)
    ImageDraw.Draw(image).ellipse(tuple(box.tolist()), fill=1)
    return np.asarray(image)


def seen(region: Region, objects: list[tuple[NDArray[np.float32], int]]) -> RawDetections:
    """What a perfect detector finds in a view: the visible part of each elliptic object, with its mask."""
    x1, y1, x2, y2 = region
    boxes, indices, masks = [], [], []
    for box, index in objects:
        part = np.clip(box, [x1, y1, x1, y1], [x2, y2, x2, y2]) - np.array([x1, y1, x1, y1])
        width, height = part[2:] - part[:2]
        # Too small in the whole image, or hardly visible in a tile.
        if min(width, height) < 0.04 * (x2 - x1):
            continue
        outline = ellipse(box)[y1:y2, x1:x2]
        left, top, right, bottom = (round(float(value)) for value in part)
        cells = Image.fromarray(outline[top:bottom, left:right]).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        boxes.append(part)
        indices.append(index)
        masks.append(np.asarray(cells, dtype=np.float32) / 255)
    return RawDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        # The larger, the surer.
        np.array([0.5 + (box[2] - box[0]) / 10_000 for box in boxes], np.float32),
        np.array(indices, np.int64),
        np.array(masks, np.float32).reshape(-1, SIDE, SIDE),
        (y2 - y1, x2 - x1),
        (y1, x1),
    )


@pytest.fixture(params=range(5))
def objects(request: pytest.FixtureRequest) -> list[tuple[NDArray[np.float32], int]]:
    """Objects of two classes that do not touch, from 50 to 900 pixels, many of them across borders of tiles."""
    chance = np.random.default_rng(request.param)
    found: list[tuple[NDArray[np.float32], int]] = []
    while len(found) < 12:
        size = chance.uniform(50, 900) * chance.uniform(0.6, 1, 2)
        corner = chance.uniform(0, np.array([WIDTH, HEIGHT]) - size)
        box = np.concatenate([corner, corner + size]).astype(np.float32)
        if all((box[:2] > other[2:] + 10).any() or (box[2:] < other[:2] - 10).any() for other, _ in found):
            found.append((box, int(chance.integers(1, 3))))
    return found


@pytest.mark.parametrize("count", [3, 6])
def test_each_object_is_joined_to_one_with_its_whole_outline(
    objects: list[tuple[NDArray[np.float32], int]], count: int
) -> None:
    views = [seen(region, objects) for region in tiles.views((WIDTH, HEIGHT), count)]
    joined = tiles.join(views, 100)
    assert joined.size == (HEIGHT, WIDTH)
    assert (np.diff(joined.scores) <= 0).all()
    truth = [(box, index) for box, index in objects if min(box[2:] - box[:2]) >= 0.05 * WIDTH / count]
    assert joined.masks is not None
    masks = paste(joined.masks, joined.boxes, joined.size)
    overlaps = box_iou(torch.tensor(np.array([box for box, _ in truth])), torch.tensor(joined.boxes)).numpy()
    for (box, index), row in zip(truth, overlaps, strict=True):
        best = int(row.argmax())
        assert row[best] > 0.9
        assert joined.indices[best] == index
        assert iou(masks[best].full(HEIGHT, WIDTH), ellipse(box)) > 0.85
        # Nothing else lies on it: no part was left over.
        assert (np.delete(row, best) == 0).all()


def test_only_the_best_are_kept(objects: list[tuple[NDArray[np.float32], int]]) -> None:
    views = [seen(region, objects) for region in tiles.views((WIDTH, HEIGHT), 3)]
    every, some = tiles.join(views, 100), tiles.join(views, 4)
    assert some.scores.tolist() == every.scores[:4].tolist()
    assert np.array_equal(some.boxes, every.boxes[:4])


def test_neighbours_of_a_class_and_objects_in_one_place_of_two_classes_stay_apart() -> None:
    one, other, wheel = ([400, 300, 700, 600], [560, 300, 860, 600], [400, 300, 700, 600])
    boxes = [(np.array(one, np.float32), 1), (np.array(other, np.float32), 1), (np.array(wheel, np.float32), 2)]
    views = [seen(region, boxes) for region in tiles.views((WIDTH, HEIGHT), 2)]
    assert len(tiles.join(views, 100).scores) == 3


def test_nothing_is_found_in_nothing() -> None:
    views = [seen(region, []) for region in tiles.views((WIDTH, HEIGHT), 2)]
    joined = tiles.join(views, 100)
    assert joined.boxes.shape == (0, 4)
    assert joined.masks is not None
    assert joined.masks.shape == (0, SIDE, SIDE)


@pytest.fixture(scope="module")
def large() -> bytes:
    """A JPEG of 12 megapixels with four small photos far apart."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (114, 114, 114))
    for name, place in (
        ("riders", (200, 200)),
        ("elephant", (3200, 150)),
        ("cat", (1900, 1400)),
        ("tennis", (3000, 2400)),
    ):
        canvas.paste(Image.open(web.FOLDER / "samples" / f"{name}.jpg"), place)
    return encoded(canvas, "JPEG", quality=92)


def labels(result: Predictions) -> list[str]:
    return sorted(result.labels)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_small_objects_are_found_and_a_server_answers_as_the_model_does(server: str, large: bytes, task: str) -> None:
    loaded = models.load(task)
    image = models.decode(large)
    with_tiles = models.run(loaded, image, tiles=6)
    assert {"horse", "cat"} - set(labels(models.run(loaded, image)))
    assert {"horse", "cat", "person"} <= set(labels(with_tiles))
    (cat,) = [box for box, label in zip(with_tiles.boxes, with_tiles.labels, strict=True) if label == "cat"]
    # It fills its photo.
    assert np.abs(cat - [1900, 1400, 1900 + 451, 1400 + 300]).max() < 60
    with Client(server) as client:
        # 31 inputs for a queue with fewer places.
        assert MAX_QUEUE < 31
        result = client.run(task, large, tiles=6)
        assert sorted(one.label for one in result.predictions) == labels(with_tiles)
        found = np.array([one.box for one in result.predictions])
        assert np.abs(found - with_tiles.boxes).max() < 0.02
        drawn = client.run(task, large, tiles=2)
        assert drawn.image.width == WIDTH


def test_the_number_of_tiles_is_checked(server: str) -> None:
    photo = web.FOLDER / "samples" / "cat.jpg"
    with Client(server) as client:
        assert list(client.detect(photo, tiles=1)) == list(client.detect(photo))
        for wrong in (0, 7, "many"):
            with pytest.raises(Rejected, match="tiles"):
                client.run("detect", photo, tiles=wrong)
