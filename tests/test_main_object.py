"""The tiny profile's localizer: which box is the main object, what its label is, and who answers in a mixed batch."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foursight import models
from foursight.models.tasks.localize import Localization
from foursight.models.tasks.main_object import main_box
from foursight.models.tasks.objects import RawDetections
from tests.photos import photo
from tests.tuned_models import write_localizer

SAMPLES = Path(__file__).parents[1] / "serving" / "page" / "samples"
GREY = Image.new("RGB", (640, 480), "grey")


@cache
def loaded(name: str) -> Any:
    return models.load(name, "tiny", "cpu")


def sample(name: str) -> Image.Image:
    return models.decode((SAMPLES / f"{name}.jpg").read_bytes())


def detections(*found: tuple[float, tuple[float, float, float, float]]) -> RawDetections:
    """Detections in an image of 200 x 100 pixels."""
    boxes = np.array([box for _, box in found], np.float32).reshape(-1, 4)
    scores = np.array([score for score, _ in found], np.float32)
    return RawDetections(boxes, scores, np.ones(len(found), np.int64), None, (100, 200))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Of equal scores the larger, of equal sizes the better.
        ([(0.8, (0, 0, 20, 20)), (0.8, (50, 0, 150, 100))], 1),
        ([(0.8, (0, 0, 50, 50)), (0.9, (50, 0, 100, 50))], 1),
        # 16 times the area is 8 times the weight.
        ([(0.7, (0, 0, 20, 20)), (0.1, (50, 0, 130, 80))], 1),
        ([(0.9, (0, 0, 20, 20)), (0.1, (50, 0, 130, 80))], 0),
        ([], None),
        ([(0.9, (10, 10, 10, 40))], None),
    ],
)
def test_the_main_object_is_large_and_has_a_good_score(found: list[Any], expected: int | None) -> None:
    box = main_box(detections(*found))
    assert (None if box is None else tuple(box)) == (None if expected is None else found[expected][1])


@pytest.mark.parametrize(
    ("name", "labels", "things"),
    [
        ("cat", {"tabby", "tiger cat", "Egyptian cat"}, {"cat"}),
        ("elephant", {"Indian elephant", "tusker", "African elephant"}, {"elephant"}),
        # ImageNet has no class for people: a rider has the label of the horse, a player that of the racket.
        ("riders", {"sorrel", "horse cart"}, {"horse", "person"}),
        ("tennis", {"racket"}, {"person", "tennis racket"}),
    ],
)
def test_label_and_box_of_the_samples_make_sense(name: str, labels: set[str], things: set[str]) -> None:
    image = sample(name)
    found = models.run(loaded("localize"), image)
    assert found.labels[0] in labels
    detected = models.run(loaded("detect"), image, score_threshold=0.05)
    same = np.abs(detected.boxes - found.boxes[0]).max(1) < 0.5
    assert things & {label for label, is_same in zip(detected.labels, same, strict=True) if is_same}


def test_the_label_is_that_of_the_crop() -> None:
    image = photo("coffee")
    found = models.run(loaded("localize"), image, top_k=3)
    left, top, right, bottom = found.boxes[0]
    x, y = 0.1 * (right - left), 0.1 * (bottom - top)
    crop = image.crop((
        max(0, int(np.floor(left - x))), max(0, int(np.floor(top - y))),
        min(image.width, int(np.ceil(right + x))), min(image.height, int(np.ceil(bottom + y))),
    ))  # fmt: skip
    expected = models.run(loaded("classify"), crop, top_k=3)
    assert found.labels == expected.labels
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_the_voting_head_answers_where_nothing_is_found(tmp_path: Path) -> None:
    task: Localization = loaded("localize")
    assert not models.run(loaded("detect"), GREY, score_threshold=0.05).labels
    found = models.run(task, GREY, top_k=5)
    write_localizer(tmp_path / "votes", ("espresso", "tiger cat"))
    task.install("votes", tmp_path / "votes")
    np.testing.assert_allclose(found.boxes[0], models.run(task, GREY, model="votes").boxes[0], atol=1e-2)
    assert len(found.labels) == 5


def test_a_mixed_batch_has_the_answers_of_each_image_alone(tmp_path: Path) -> None:
    task: Localization = loaded("localize")
    write_localizer(tmp_path / "mixed", ("espresso", "tiger cat"))
    task.install("mixed", tmp_path / "mixed")
    asked = [(sample("riders"), None), (sample("cat"), "mixed"), (GREY, None), (sample("cat"), None), (GREY, "mixed")]
    requests = [task.resolve(task.options.model_validate({"model": name})) for _, name in asked]
    outputs = task.predict([(task.prepare(image), mine) for (image, _), mine in zip(asked, requests, strict=True)])
    for (image, name), mine, output in zip(asked, requests, outputs, strict=True):
        alone, found = models.run(task, image, model=name), task.finish(output, mine)
        assert found.labels == alone.labels
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.05)


def test_the_card_counts_each_parameter_once() -> None:
    localize, detect, classify = (loaded(name).card for name in ("localize", "detect", "classify"))
    # The voting head has 294,053 parameters.
    assert localize.parameters == detect.parameters + classify.parameters + 294_053
    assert localize.bytes == detect.bytes + classify.bytes + 4 * 294_053
    assert localize.labels == classify.labels
