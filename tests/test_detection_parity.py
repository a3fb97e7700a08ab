"""Detection and segmentation: our order of the work gives what torchvision's own `forward` gives.

The networks have random weights, with heads made loud enough that they find objects: the arithmetic is what is tested.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tests.helpers import as_tensor, photo, settle
from torch import nn
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_Weights,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    maskrcnn_resnet50_fpn,
)

from foursight.models import rcnn
from foursight.models.catalogue import run
from foursight.models.errors import OptionError
from foursight.models.options import DetectOptions, SegmentOptions
from foursight.models.results import Predictions

COCO = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
RANDOM = {"weights": None, "weights_backbone": None, "rpn_post_nms_top_n_test": 200}


def loud(network: nn.Module, scores: float, boxes: float) -> nn.Module:
    """Make a random network's scores spread over 0..1, its boxes over the photo, and its masks over both sides of .5."""
    batch, _ = network.eval().transform([as_tensor(photo("astronaut"))])
    settle(network.backbone, batch.tensors)
    heads = network.roi_heads
    with torch.no_grad():
        heads.box_predictor.cls_score.weight *= scores
        heads.box_predictor.bbox_pred.weight *= boxes
        network.rpn.head.bbox_pred.weight *= boxes
        if heads.has_mask():
            heads.mask_predictor.mask_fcn_logits.weight *= 20
    return network.eval()


def fasterrcnn() -> rcnn.Rcnn:
    network = loud(fasterrcnn_mobilenet_v3_large_320_fpn(**RANDOM, box_detections_per_img=50), 30, 20)
    return rcnn.load(network, "faster-rcnn", "tiny", "cpu", DetectOptions, rcnn.coco_categories(COCO))


def maskrcnn() -> rcnn.Rcnn:
    options = {**RANDOM, "min_size": 160, "max_size": 256, "box_detections_per_img": 10}
    network = loud(maskrcnn_resnet50_fpn(**options), 6, 20)
    return rcnn.load(network, "mask-rcnn", "tiny", "cpu", SegmentOptions, rcnn.coco_categories(COCO))


TASKS: dict[str, Callable[[], rcnn.Rcnn]] = {"faster r-cnn": fasterrcnn, "mask r-cnn": maskrcnn}

ASTRONAUT = photo("astronaut")
PHOTOS = {
    "square": ASTRONAUT,
    "portrait": ASTRONAUT.resize((300, 420)),
    "landscape": photo("chelsea"),
    "mirrored portrait": ImageOps.mirror(ASTRONAUT.resize((300, 420))),
    "portrait, a little narrower": photo("coffee").resize((296, 420)),
    "panorama": photo("coffee").crop((0, 100, 600, 220)),
    "tiny": ASTRONAUT.resize((40, 30)),
}


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> rcnn.Rcnn:
    torch.manual_seed(0)
    return TASKS[request.param]()


@pytest.fixture(scope="module")
def all_of(task: rcnn.Rcnn) -> Callable[[str], Predictions]:
    """Everything that a task finds in a photo, computed once."""
    found: dict[str, Predictions] = {}

    def all_of(name: str) -> Predictions:
        if name not in found:
            found[name] = run(task, PHOTOS[name], score_threshold=0.05)
        return found[name]

    return all_of


def full(found: Predictions, image: Image.Image) -> NDArray[np.bool_]:
    """The masks as bool [N, H, W]."""
    return np.stack([mask.full(image.height, image.width) for mask in found.masks])


def assert_same(one: Predictions, other: Predictions, image: Image.Image) -> None:
    assert one.labels == other.labels
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=0.5)
    assert (one.masks is None) == (other.masks is None)
    if one.masks:
        # The batch may change the last bits of a probability, and so a pixel at exactly one half.
        assert (full(one, image) != full(other, image)).mean() < 1e-4


def chosen(found: Predictions, keep: NDArray[np.bool_]) -> Predictions:
    """Some of what was found."""
    indices = np.flatnonzero(keep)
    return Predictions(
        found.class_ids[indices],
        tuple(found.labels[i] for i in indices),
        found.scores[indices],
        found.boxes[indices],
        None if found.masks is None else tuple(found.masks[i] for i in indices),
    )


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_gets_the_answer_of_torchvisions_own_forward(
    task: rcnn.Rcnn, all_of: Callable[[str], Predictions], name: str
) -> None:
    image = PHOTOS[name]
    with torch.inference_mode():
        (expected,) = task.network([as_tensor(image)])
    found = all_of(name)
    assert len(found.scores) >= 5
    assert found.labels == tuple(task.names[index] for index in expected["labels"])
    assert found.class_ids.tolist() == [task.class_ids[index] for index in expected["labels"]]
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-6)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    if "masks" in expected:
        masks = expected["masks"][:, 0].numpy() > 0.5
        assert masks.any()
        np.testing.assert_array_equal(full(found, image), masks)
    else:
        assert found.masks is None


def test_random_networks_find_different_things_in_different_photos(all_of: Callable[[str], Predictions]) -> None:
    square, mirrored = all_of("portrait"), all_of("mirrored portrait")
    assert not np.allclose(square.boxes[:5], mirrored.boxes[:5], atol=5)
    assert len(set(square.labels)) > 1


def test_photos_of_different_sizes_in_a_batch_are_answered_as_alone(
    task: rcnn.Rcnn, all_of: Callable[[str], Predictions]
) -> None:
    options = task.options(score_threshold=0.05)
    outputs = task.predict([(task.prepare(image), options) for image in PHOTOS.values()])
    for (name, image), output in zip(PHOTOS.items(), outputs, strict=True):
        assert_same(task.finish(output, options), all_of(name), image)


def test_each_photo_of_a_batch_has_its_own_options(task: rcnn.Rcnn, all_of: Callable[[str], Predictions]) -> None:
    everything = all_of("portrait")
    label = everything.labels[-1]
    asked: list[dict[str, Any]] = [{}, {"max_detections": 2}, {"classes": [label]}, {"score_threshold": 1}]
    if task.options is SegmentOptions:
        asked.append({"mask_format": "none"})
    options = [task.options(**{"score_threshold": 0.05} | one) for one in asked]
    prepared = task.prepare(PHOTOS["portrait"])
    outputs = task.predict([(prepared, one) for one in options])
    found = [task.finish(output, one) for output, one in zip(outputs, options, strict=True)]
    assert_same(found[0], everything, PHOTOS["portrait"])
    assert found[1].labels == everything.labels[:2]
    assert set(found[2].labels) == {label}
    assert len(found[3].labels) == sum(everything.scores >= 1)
    assert [one.masks is None for one in found] == [
        task.options is DetectOptions or one.get("mask_format") == "none" for one in asked
    ]


def test_a_threshold_keeps_the_scores_at_or_above_it(task: rcnn.Rcnn, all_of: Callable[[str], Predictions]) -> None:
    everything = all_of("square")
    bound = float(everything.scores[3])
    found = run(task, PHOTOS["square"], score_threshold=bound)
    assert_same(found, chosen(everything, everything.scores >= bound), PHOTOS["square"])
    assert len(found.scores) == 4


def test_at_most_so_many_objects_are_given_the_best_first(
    task: rcnn.Rcnn, all_of: Callable[[str], Predictions]
) -> None:
    everything = all_of("landscape")
    assert (np.diff(everything.scores) <= 0).all()
    found = run(task, PHOTOS["landscape"], score_threshold=0.05, max_detections=3)
    assert_same(found, chosen(everything, np.arange(len(everything.scores)) < 3), PHOTOS["landscape"])


def test_classes_keep_their_own_objects_only(task: rcnn.Rcnn, all_of: Callable[[str], Predictions]) -> None:
    everything = all_of("square")
    label = everything.labels[-1]
    assert set(everything.labels) != {label}
    found = run(task, PHOTOS["square"], score_threshold=0.05, classes=label.upper())
    assert_same(found, chosen(everything, np.array(everything.labels) == label), PHOTOS["square"])


def test_a_photo_in_which_nothing_is_found_has_an_empty_answer(task: rcnn.Rcnn, all_of: Callable) -> None:
    absent = next(label for label in task.card.labels if label not in all_of("square").labels)
    found = run(task, PHOTOS["square"], score_threshold=0.05, classes=absent)
    assert (found.labels, found.boxes.shape, found.scores.shape) == ((), (0, 4), (0,))
    assert found.masks == (None if task.options is DetectOptions else ())


@pytest.mark.parametrize("name", ["persn", "N/A", "__background__", "background"])
def test_what_is_no_class_to_be_served_is_refused(task: rcnn.Rcnn, name: str) -> None:
    with pytest.raises(OptionError) as caught:
        task.check(task.options(classes=name))
    assert caught.value.code == "unknown_class"


def test_the_closest_label_is_named(task: rcnn.Rcnn) -> None:
    with pytest.raises(OptionError, match="person"):
        task.check(task.options(classes="persn"))
