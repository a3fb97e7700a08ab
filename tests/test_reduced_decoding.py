"""Results for an image decoded at a lower resolution: close to those of the full one, in pixels of the original."""

import numpy as np
import pytest
from PIL import Image

from foursight.models import load
from foursight.models.image import decode, decode_for
from foursight.models.results import Predictions
from tests.helpers import iou
from tests.photos import encoded, photo

SIDES = (3600, 2880)


def large(name: str) -> bytes:
    return encoded(photo(name).resize(SIDES, Image.Resampling.BICUBIC), "JPEG", quality=90)


def answers(task_name: str, file: bytes) -> tuple[Predictions, Predictions]:
    """Return the predictions from the full image and from the reduced one."""
    task = load(task_name, "tiny", "cpu")
    request = task.resolve(task.options())
    reduced, size = decode_for(file, task.short_side)
    assert size == SIDES
    assert reduced.width <= SIDES[0] / 2
    outputs = task.predict([(task.prepare(image, SIDES), request) for image in (decode(file), reduced)])
    whole, found = (task.finish(output, request) for output in outputs)
    return whole, found


def test_labels_are_those_of_the_full_image() -> None:
    whole, found = answers("classify", large("chelsea"))
    assert found.labels[:3] == whole.labels[:3]
    np.testing.assert_allclose(found.scores, whole.scores, atol=0.02)


@pytest.mark.parametrize(("task_name", "name"), [("localize", "coffee"), ("segment", "astronaut")])
def test_boxes_and_masks_are_those_of_the_full_image(task_name: str, name: str) -> None:
    whole, found = answers(task_name, large(name))
    assert found.labels == whole.labels
    assert found.labels
    np.testing.assert_allclose(found.scores, whole.scores, atol=0.06)
    np.testing.assert_allclose(found.boxes, whole.boxes, atol=0.02 * SIDES[0])
    assert found.boxes[:, 2].max() > SIDES[0] / 2
    for mine, other in zip(found.masks or (), whole.masks or (), strict=True):
        assert iou(mine.full(SIDES[1], SIDES[0]), other.full(SIDES[1], SIDES[0])) > 0.97
