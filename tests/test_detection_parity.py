"""Detection and segmentation: the results are those of torchvision's own `forward`.

The arithmetic is tested with random weights whose heads are scaled up until they find objects, and with the tiny
profile.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_Weights,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    maskrcnn_resnet50_fpn,
)
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from foursight.models import image as images
from foursight.models import labels, load, run
from foursight.models.errors import OptionError
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.results import Predictions
from foursight.models.tasks import instances
from foursight.schema.options import DetectOptions, SegmentOptions
from tests.helpers import as_tensor, settle, without_openvino
from tests.photos import photo

COCO = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
RANDOM = {"weights": None, "weights_backbone": None, "min_size": 128, "max_size": 192, "rpn_post_nms_top_n_test": 100}


def loud(network: GeneralizedRCNN) -> GeneralizedRCNN:
    """Scale a random network's heads until its scores cover 0..1 and its boxes and masks differ."""
    photos = [as_tensor(photo(name).resize((300, 300))) for name in ("astronaut", "chelsea", "coffee")]
    batch, _ = network.eval().transform(photos)
    settle(network.backbone, batch.tensors)
    heads, spread = network.roi_heads, []
    with torch.no_grad():
        heads.box_predictor.bbox_pred.weight *= 5
        network.rpn.head.bbox_pred.weight *= 5
        if heads.has_mask():
            heads.mask_predictor.mask_fcn_logits.weight *= 20
        watch = heads.box_predictor.register_forward_hook(lambda module, given, found: spread.append(found[0].std()))
        network.eval()(photos)
        watch.remove()
        heads.box_predictor.cls_score.weight *= 1.7 / spread[0]
    return network


def fasterrcnn() -> instances.Rcnn:
    network = loud(fasterrcnn_mobilenet_v3_large_320_fpn(**RANDOM, box_detections_per_img=50))
    return instances.of_torchvision("faster-rcnn", network, COCO.meta["categories"], DetectOptions, "cpu")


def maskrcnn() -> instances.Rcnn:
    network = loud(maskrcnn_resnet50_fpn(**RANDOM, box_detections_per_img=8))
    return instances.of_torchvision("mask-rcnn", network, COCO.meta["categories"], SegmentOptions, "cpu")


RANDOM_TASKS: dict[str, Callable[[], Any]] = {"random faster r-cnn": fasterrcnn, "random mask r-cnn": maskrcnn}
TASKS = RANDOM_TASKS | {
    "tiny detect": lambda: load("detect", "tiny", "cpu"),
    "tiny segment": lambda: load("segment", "tiny", "cpu"),
}
ASTRONAUT = photo("astronaut")
PHOTOS = {
    # Less than twice the networks' input: a larger photo is reduced first (tests/test_reduced_decoding.py).
    "square": ASTRONAUT.resize((380, 380)),
    "portrait": ASTRONAUT.resize((300, 420)),
    "landscape": photo("chelsea"),
    "portrait, a little narrower": ASTRONAUT.resize((296, 420)),
    "panorama": photo("coffee").crop((0, 100, 600, 220)),
    "tiny": ASTRONAUT.resize((40, 30)),
}


@pytest.fixture(autouse=True)
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tasks without engines and without reducing large images; both have separate tests."""
    without_openvino(monkeypatch)
    monkeypatch.setattr(images, "reduce", lambda whole, short_side: whole)


@cache
def made(name: str) -> instances.Rcnn:
    torch.manual_seed(0)
    return TASKS[name]()


@cache
def torchvisions(name: str) -> GeneralizedRCNN:
    """Return the network of a task as torchvision's own class."""
    if name in RANDOM_TASKS:
        return made(name).network.network
    return ssd_rcnn.load(masks=name == "tiny segment")


@cache
def everything_in(task_name: str, photo_name: str) -> Predictions:
    return run(made(task_name), PHOTOS[photo_name], score_threshold=0.05)


@pytest.fixture(params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each task."""
    return request.param


@pytest.fixture(params=RANDOM_TASKS)
def random(request: pytest.FixtureRequest) -> str:
    """The name of each task with random weights; all tasks share the code for a request's options."""
    return request.param


def full(found: Predictions, image: Image.Image) -> NDArray[np.bool_]:
    """Return the masks as bool [N, H, W]."""
    masks = [mask.full(image.height, image.width) for mask in found.masks]
    return np.stack(masks) if masks else np.zeros((0, image.height, image.width), dtype=bool)


def assert_same(one: Predictions, other: Predictions, image: Image.Image) -> None:
    """Compare objects up to rounding: two objects with nearly the same score may be swapped."""
    assert len(one.labels) == len(other.labels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    distance = np.abs(one.boxes[:, None] - other.boxes[None]).max(2)
    distance[np.array(one.labels)[:, None] != np.array(other.labels)[None]] = np.inf
    partner = distance.argmin(1) if len(distance) else np.zeros(0, dtype=int)
    assert sorted(partner) == list(range(len(other.labels)))
    assert (distance.min(1, initial=np.inf) < 0.5).all()
    assert (one.masks is None) == (other.masks is None)
    if one.masks:
        assert (full(one, image) != full(other, image)[partner]).mean() < 1e-3


def chosen(found: Predictions, keep: NDArray[np.bool_]) -> Predictions:
    """Return the predictions that `keep` selects."""
    indices = np.flatnonzero(keep)
    return Predictions(
        found.class_ids[indices],
        tuple(found.labels[i] for i in indices),
        found.scores[indices],
        found.boxes[indices],
        None if found.masks is None else tuple(found.masks[i] for i in indices),
    )


@pytest.mark.parametrize("photo_name", PHOTOS)
def test_an_image_is_prepared_as_torchvision_does(random: str, photo_name: str) -> None:
    image = PHOTOS[photo_name]
    prepared = made(random).prepare(image)
    expected, _ = torchvisions(random).transform([as_tensor(image)])
    height, width = expected.image_sizes[0]
    assert prepared.size == (image.height, image.width)
    assert tuple(prepared.pixels.shape) == (3, height, width)
    torch.testing.assert_close(prepared.pixels, expected.tensors[0, :, :height, :width], atol=1e-5, rtol=0)


@pytest.mark.parametrize("photo_name", PHOTOS)
def test_an_image_has_the_results_of_torchvisions_own_forward(
    name: str, photo_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, image = made(name), PHOTOS[photo_name]
    # Both start from our resized pixels, because a random network amplifies the last bits of a pixel to visible
    # differences.
    network, pixels = torchvisions(name), task.prepare(image).pixels
    transform = network.transform
    if name not in RANDOM_TASKS:
        # Stretched by Pillow, in 8 bits.
        pixels = transform.normalize(torch.tensor(pixels).permute(2, 0, 1) / 255)
    resized = ImageList(transform.batch_images([pixels]), [tuple(pixels.shape[1:])])
    monkeypatch.setattr(transform, "forward", lambda images, targets=None: (resized, targets))
    with torch.inference_mode():
        (expected,) = network([as_tensor(image)])
    found = everything_in(name, photo_name)
    assert found.labels == tuple(task.published.names[index] for index in expected["labels"])
    assert found.class_ids.tolist() == [task.published.class_ids[index] for index in expected["labels"]]
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    if "masks" in expected:
        # A pixel between a 0 and a 1 is .5 but for rounding.
        assert (full(found, image) != (expected["masks"][:, 0].numpy() > 0.5)).mean() < 1e-3
    else:
        assert found.masks is None


@pytest.mark.parametrize("task_name", ["tiny detect", "tiny segment"])
@pytest.mark.parametrize("photo_name", PHOTOS)
def test_resizing_by_pillow_changes_little(task_name: str, photo_name: str) -> None:
    task, image = made(task_name), PHOTOS[photo_name]
    with torch.inference_mode():
        (expected,) = torchvisions(task_name)([as_tensor(image)])
    found, sure = everything_in(task_name, photo_name), expected["scores"] >= 0.5
    labels = tuple(task.published.names[index] for index in expected["labels"][sure])
    assert found.labels[: len(labels)] == labels
    np.testing.assert_allclose(found.scores[: len(labels)], expected["scores"][sure], atol=0.05)
    np.testing.assert_allclose(found.boxes[: len(labels)], expected["boxes"][sure], atol=0.01 * max(image.size))


def test_the_networks_find_enough_for_these_tests(name: str) -> None:
    found = [everything_in(name, photo_name) for photo_name in PHOTOS]
    assert all(len(one.labels) >= (5 if name in RANDOM_TASKS else 0) for one in found)
    assert len(everything_in(name, "square").labels) >= 3
    assert len({label for one in found for label in one.labels}) >= 2
    assert len({tuple(one.boxes[0].tolist()) for one in found if len(one.boxes)}) >= 3
    if made(name).options is SegmentOptions:
        assert 0 < full(everything_in(name, "square"), ASTRONAUT).mean() < 0.9


def test_images_of_different_sizes_in_a_batch_have_the_same_results_as_alone(name: str) -> None:
    task = made(name)
    request = task.resolve(task.options(score_threshold=0.05))
    outputs = task.predict([(task.prepare(image), request) for image in PHOTOS.values()])
    for (photo_name, image), output in zip(PHOTOS.items(), outputs, strict=True):
        assert_same(task.finish(output, request), everything_in(name, photo_name), image)


def test_each_image_of_a_batch_has_its_own_options(random: str) -> None:
    task, everything = made(random), everything_in(random, "landscape")
    label = served(task, everything)
    asked: list[dict[str, Any]] = [{}, {"max_detections": 2}, {"classes": [label]}, {"score_threshold": 1}]
    if task.options is SegmentOptions:
        asked.append({"mask_format": "none"})
    requests = [task.resolve(task.options(**{"score_threshold": 0.05} | one)) for one in asked]
    prepared = task.prepare(PHOTOS["landscape"])
    outputs = task.predict([(prepared, one) for one in requests])
    found = [task.finish(output, one) for output, one in zip(outputs, requests, strict=True)]
    assert_same(found[0], everything, PHOTOS["landscape"])
    np.testing.assert_allclose(found[1].scores, everything.scores[:2], atol=1e-3)
    assert_same(found[2], chosen(everything, np.array(everything.labels) == label), PHOTOS["landscape"])
    assert found[3].labels == ()
    assert [one.masks is None for one in found] == [
        task.options is DetectOptions or one.get("mask_format") == "none" for one in asked
    ]


def test_a_threshold_keeps_the_scores_at_or_above_it(random: str) -> None:
    everything = everything_in(random, "square")
    bound = float(everything.scores[3])
    found = run(made(random), PHOTOS["square"], score_threshold=bound)
    assert_same(found, chosen(everything, everything.scores >= bound), PHOTOS["square"])
    assert len(found.scores) == (everything.scores >= bound).sum() < len(everything.scores)


def test_at_most_max_detections_objects_are_returned_best_first(random: str) -> None:
    everything = everything_in(random, "square")
    assert (np.diff(everything.scores) <= 0).all()
    found = run(made(random), PHOTOS["square"], score_threshold=0.05, max_detections=3)
    assert_same(found, chosen(everything, np.arange(len(everything.scores)) < 3), PHOTOS["square"])
    assert len(found.scores) == 3


def test_only_objects_of_the_named_classes_are_returned(random: str) -> None:
    task, everything = made(random), everything_in(random, "square")
    label = served(task, everything)
    assert set(everything.labels) != {label}
    found = run(task, PHOTOS["square"], score_threshold=0.05, classes=label.upper())
    assert_same(found, chosen(everything, np.array(everything.labels) == label), PHOTOS["square"])


def test_an_image_without_objects_has_an_empty_result(random: str) -> None:
    task, everything = made(random), everything_in(random, "square")
    absent = next(label for label in task.card.labels if label not in everything.labels)
    found = run(task, PHOTOS["square"], score_threshold=0.05, classes=absent)
    assert (found.labels, found.boxes.shape, found.scores.shape) == ((), (0, 4), (0,))
    assert found.masks == (None if task.options is DetectOptions else ())


def served(task: instances.Rcnn, found: Predictions) -> str:
    """Return the last label that is served: a random network also finds class indices that have no label."""
    return next(label for label in reversed(found.labels) if label in task.card.labels)


@pytest.mark.parametrize("unknown", ["persn", "N/A", "__background__", "background", "person2"])
def test_a_class_that_is_not_served_is_refused(name: str, unknown: str) -> None:
    task = made(name)
    with pytest.raises(OptionError) as caught:
        task.resolve(task.options(classes=["person", unknown]))
    assert caught.value.code == "unknown_class"
    assert repr(unknown) in caught.value.detail
    if len(task.card.labels) <= labels.LISTED:
        assert caught.value.hint == f"Its classes: {', '.join(task.card.labels)}."
    else:
        assert ("person" in caught.value.hint) == unknown.startswith("pers")
