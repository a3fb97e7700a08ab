"""Classification: the published network, its preprocessing, and the options of a request."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from foursight.models import catalogue, labels
from foursight.models.errors import OptionError
from foursight.models.networks import lite0
from foursight.models.networks.presets import CentreCrop, lite0_weights
from foursight.models.tasks import classify
from tests.photos import photo

PHOTOS = ("chelsea", "coffee", "astronaut")


@pytest.fixture(scope="module")
def task() -> classify.Classification:
    return classify.load("tiny", "cpu")


@pytest.fixture(scope="module")
def ask(task: classify.Classification) -> Callable:
    return lambda name, **options: catalogue.run(task, photo(name), **options)


def test_the_network_has_exactly_the_tensors_of_the_published_file() -> None:
    published = torch.load(lite0_weights(), weights_only=True)
    loaded = lite0.load().state_dict()
    assert loaded.keys() == published.keys()
    for name, value in published.items():
        assert torch.equal(loaded[name], value), name


def tensorflow_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) that TensorFlow's documentation defines as "SAME"."""
    total = max(kernel - stride, 0) if size % stride == 0 else max(kernel - size % stride, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (7, 8), (8, 7), (13, 32), (1, 1), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_pads_as_tensorflow_does(size: tuple[int, int], stride: int, kernel: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = lite0.SameConv2d(4, 8, kernel, stride, groups=groups)
    x = torch.randn(2, 4, *size)
    (top, bottom), (left, right) = (tensorflow_padding(side, kernel, stride) for side in size)
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias, stride, groups=groups)
    with torch.no_grad():
        actual = conv(x)
    assert actual.shape[2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_chelsea_is_a_tiger_cat(ask: Callable) -> None:
    found = ask("chelsea", top_k=3)
    assert found.labels == ("tiger cat", "Egyptian cat", "tabby")
    assert found.scores == pytest.approx([0.395, 0.355, 0.17], abs=0.002)
    assert found.wnids == ("n02123159", "n02124075", "n02123045")
    assert found.class_ids.tolist() == [282, 285, 281]


def test_coffee_is_espresso(ask: Callable) -> None:
    found = ask("coffee", top_k=1)
    assert found.labels == ("espresso",)
    assert found.scores == pytest.approx([0.951], abs=0.002)


@pytest.mark.parametrize(
    ("class_id", "wnid", "label"),
    [
        (0, "n01440764", "tench"),
        (282, "n02123159", "tiger cat"),
        (340, "n02391049", "zebra"),
        (817, "n04285008", "sports car"),
        (967, "n07920052", "espresso"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_a_class_has_its_wordnet_id(class_id: int, wnid: str, label: str) -> None:
    assert labels.imagenet()[class_id] == (wnid, label)


def test_the_thousand_classes_are_in_the_order_of_their_wordnet_ids() -> None:
    wnids = [wnid for wnid, _ in labels.imagenet()]
    assert len(wnids) == 1000
    assert wnids == sorted(set(wnids))


@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize(
    "size", [(451, 300), (300, 451), (640, 427), (427, 640), (224, 224), (1200, 900), (50, 37), (1600, 200), (256, 257)]
)
def test_the_crop_equals_resizing_the_whole_image_and_cropping(
    size: tuple[int, int], resample: Image.Resampling
) -> None:
    image = photo("chelsea").resize(size)
    view = CentreCrop(256, 224, resample)
    short = min(size)
    resized = image.resize((int(256 * size[0] / short), int(256 * size[1] / short)), resample)
    left, top = (round((side - 224) / 2) for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    difference = np.abs(view.crop_image(image) - expected)
    # Pillow may run the two passes of a resize in another order, and each rounds: one sample in 30,000 is off by two.
    assert (difference > 1).mean() < 1e-4
    assert difference.max() <= 2
    assert difference.mean() < 0.2


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2000, 3), (3, 2000)])
def test_an_image_of_any_shape_has_a_crop(task: classify.Classification, size: tuple[int, int]) -> None:
    assert (task.prepare(Image.new("RGB", size, (10, 20, 30))) == (10, 20, 30)).all()


def test_scores_are_the_best_of_a_thousand_that_sum_to_one(ask: Callable) -> None:
    everything = ask("chelsea", top_k=1000)
    assert everything.scores.sum() == pytest.approx(1, abs=1e-4)
    assert (np.diff(everything.scores) <= 0).all()
    assert sorted(everything.class_ids) == list(range(1000))
    few = ask("chelsea", top_k=7)
    assert few.labels == everything.labels[:7]


def test_only_scores_at_or_above_the_threshold_are_returned(ask: Callable) -> None:
    everything = ask("chelsea", top_k=1000)
    bound = float(everything.scores[4])
    assert ask("chelsea", top_k=1000, score_threshold=bound).labels == everything.labels[:5]
    assert ask("chelsea", score_threshold=1).labels == ()


def test_only_the_named_classes_are_returned(ask: Callable) -> None:
    found = ask("chelsea", classes="espresso, tabby,TIGER CAT")
    assert found.labels == ("tiger cat", "tabby", "espresso")
    assert found.scores[0] == ask("chelsea").scores[0]


def test_a_label_of_two_classes_selects_both() -> None:
    assert labels.ids_of(["Crane", "cat"], ["crane", "cat", "dog", "crane"], [3, 5, 7, 9]) == {3, 5, 9}


def test_an_unknown_class_is_refused_with_the_closest_labels(ask: Callable) -> None:
    with pytest.raises(OptionError) as caught:
        ask("chelsea", classes="tabby,expresso")
    assert caught.value.code == "unknown_class"
    assert "'expresso'" in caught.value.detail
    assert "espresso" in caught.value.hint


def test_an_image_in_a_batch_has_the_same_scores_as_alone(task: classify.Classification) -> None:
    request = task.resolve(task.options())
    items = [(task.prepare(photo(name)), request) for name in PHOTOS]
    alone = [task.predict([item])[0].probabilities for item in items]
    for one, other in zip(alone, (output.probabilities for output in task.predict(items)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert len({int(one.argmax()) for one in alone}) == len(PHOTOS)
