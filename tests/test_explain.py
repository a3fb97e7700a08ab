"""Explanations, against plain torch arithmetic and PIL, and the position of the evidence in known photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from skimage.color import rgb2lab
from torch.nn import functional as F

from foursight.clients.cli.app import app
from foursight.drawing import palette
from foursight.drawing.explanation import WIDTH, draw_explanation
from foursight.models import OptionError
from foursight.models.finetuned import networks
from foursight.models.inspection.explain import Explanation, explain, explain_localizer
from foursight.models.networks import cam, lite0, stages
from foursight.models.tasks import classify
from tests.photos import photo
from tests.shapes import KINDS, write_model
from tests.tuned_models import write_detector, write_localizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def task() -> classify.Classification:
    return classify.load("tiny", "cpu")


@pytest.fixture(scope="module")
def espresso(task: classify.Classification) -> Explanation:
    return explain(task, photo("coffee"))


def test_evidence_is_the_class_activation_map_of_the_paper(
    task: classify.Classification, espresso: Explanation
) -> None:
    network = lite0.load()
    image = photo("coffee")
    # Pillow's own crop: short side to 256, then the middle 224 x 224.
    crop = image.resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
    pixels = (torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        logits = network(pixels)[0]
        features = network.features(pixels)[0]
        index = int(logits.argmax())
        plain = torch.einsum("chw,c->hw", features, network._fc.weight[index]).numpy()
    assert espresso.label == task.card.labels[index] == "espresso"
    assert espresso.score == pytest.approx(float(logits.softmax(0)[index]), abs=2e-3)
    np.testing.assert_allclose(espresso.evidence, plain, atol=0.02 * np.ptp(plain))
    # By definition, the mean of the evidence is the logit minus the bias.
    assert espresso.evidence.mean() == pytest.approx(float(logits[index]) - network._fc.bias[index].item(), abs=0.1)
    large = Image.fromarray(espresso.evidence, "F").resize((301, 199), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(espresso.enlarged(301, 199), np.asarray(large), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "label", "box"),
    [
        ("coffee", None, (220, 80, 380, 210)),
        ("astronaut", "space shuttle", (350, 30, 460, 280)),
        ("astronaut", "football helmet", (280, 340, 512, 512)),
    ],
)
def test_evidence_lies_on_the_object(
    task: classify.Classification, name: str, label: str | None, box: tuple[int, int, int, int]
) -> None:
    found = explain(task, photo(name), label)
    left, top, right, bottom = found.frame
    large = found.enlarged(500, 500)
    row, column = np.unravel_index(large.argmax(), large.shape)
    x, y = left + (right - left) * column / 500, top + (bottom - top) * row / 500
    assert box[0] < x < box[2]
    assert box[1] < y < box[3]


def test_feature_maps_are_the_strongest_of_the_layer(task: classify.Classification) -> None:
    found = explain(task, photo("chelsea"), layer="_blocks.2", maps=5)
    network = task.base.network
    with torch.no_grad():
        crop = torch.from_numpy(task.prepare(photo("chelsea")).copy())
        x = F.relu6(network._bn0(network._conv_stem((crop.permute(2, 0, 1)[None].float() - 127) / 128)))
        for block in network._blocks[:3]:
            x = block(x)
    spread = x[0].numpy().std(axis=(1, 2))
    assert found.channels == tuple(np.argsort(-spread)[:5])
    assert found.layer_channels == 24
    np.testing.assert_allclose(found.maps, x[0].numpy()[list(found.channels)], atol=1e-4)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("head", [{}, {"pool": "max"}, {"pool": "l2", "hidden": 16}, {"pool": "max", "hidden": 16}])
def test_evidence_of_a_fine_tuned_model_adds_up_to_its_logit(
    task: classify.Classification, tmp_path: Path, head: dict[str, object]
) -> None:
    own = write_model(tmp_path / "shapes", task.base, seed=1, frozen=8, **head)
    task.install("shapes", tmp_path / "shapes")
    image = photo("coffee")
    found = explain(task, image, "grid", layer="stages.stage9", model="shapes")
    with torch.no_grad():
        maps = own.features(
            stages.split(task.base.network), task.base.normalize(torch.tensor(task.prepare(image))[None])
        )
        logits = own.head(maps)[0]
    index = KINDS.index("grid")
    assert (found.label, found.score) == ("grid", pytest.approx(float(logits.softmax(0)[index]), abs=1e-5))
    bias = float(own.head.fc.bias[index].detach())
    assert found.evidence.mean() == pytest.approx(float(logits[index]) - bias, rel=1e-3, abs=1e-3)
    if not head:
        plain = torch.einsum("chw,c->hw", maps[0], own.head.fc.weight[index]).detach()
        np.testing.assert_allclose(found.evidence, plain, atol=1e-3)
    np.testing.assert_allclose(found.maps, maps[0][list(found.channels)], atol=1e-4)
    with pytest.raises(OptionError, match="There is no model 'other'"):
        explain(task, image, model="other")
    task.remove("shapes")


def test_evidence_of_a_localizer_lies_in_its_box_and_adds_up_to_its_logit(tmp_path: Path) -> None:
    write_localizer(tmp_path / "main", ("espresso", "tiger cat"))
    network = networks.load("main", tmp_path / "main")
    image = Image.new("RGB", (900, 300), "grey")
    image.paste(photo("chelsea").crop((60, 0, 360, 300)), (580, 0))
    found = explain_localizer(network, ("espresso", "tiger cat"), image, "tiger cat")
    assert found.frame == (0, 0, 900, 300)
    pixels = np.array(image.resize((320, 320), Image.Resampling.BILINEAR))
    with torch.no_grad():
        logits, boxes = network((torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 128)
    assert found.score == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-5)
    # The label's bias is zero.
    assert found.evidence.mean() == pytest.approx(float(logits[0, 1]), rel=1e-3)
    left, top, right, bottom = (10 * boxes[0]).tolist()
    inside = np.zeros((10, 10), bool)
    inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    assert not inside[:, :3].any()
    assert not found.evidence[~inside].any()
    assert found.evidence.max() > 0


def test_the_evidence_of_a_maximum_is_at_its_position() -> None:
    maps = torch.tensor([[[[1.0, 5.0], [2.0, 0.0]]]])
    assert cam.evidence(maps, lambda x: 3 * x.amax()).tolist() == [[0, 60], [0, 0]]


def test_unknown_labels_and_layers_are_refused_with_the_closest(task: classify.Classification) -> None:
    with pytest.raises(OptionError, match="espresso"):
        explain(task, photo("coffee"), "expresso")
    with pytest.raises(OptionError, match=r"_blocks\.4"):
        explain(task, photo("coffee"), layer="blocks.4")
    with pytest.raises(OptionError, match="no map"):
        explain(task, photo("coffee"), layer="_fc")


def test_the_picture_shows_the_photo_and_the_evidence(espresso: Explanation) -> None:
    image = photo("coffee")
    drawn = draw_explanation(image, espresso, "efficientnet-lite0")
    assert drawn.width == WIDTH
    pixels = np.asarray(drawn).astype(int)
    # The photo itself is on the left.
    small = np.asarray(image.resize((584, 389), Image.Resampling.LANCZOS)).astype(int)
    rows = [top for top in range(60, 200) if np.abs(pixels[top + 30 : top + 40, 28:100] - small[30:40, :72]).max() == 0]
    assert len(rows) == 1
    # On the right, the part outside the network's view is grey, and the coffee has warm colours.
    right = pixels[rows[0] : rows[0] + 389, 28 + 584 + 16 : 28 + 584 + 16 + 584]
    assert np.ptp(right[:, :100], axis=2).max() <= 1
    red, _, blue = right[140, 280]
    assert red - blue > 60


def test_colours_of_a_quantity_rise_in_lightness() -> None:
    lightness = rgb2lab(palette.heat()[None] / 255)[0, :, 0]
    assert np.diff(lightness).min() > 0
    assert (lightness[0], lightness[-1]) == (pytest.approx(5, abs=5), pytest.approx(95, abs=3))


def test_the_command_writes_a_picture(tmp_path: Path) -> None:
    source = tmp_path / "photo.png"
    photo("coffee").save(source)
    out = tmp_path / "out.jpg"
    result = CliRunner().invoke(app, ["explain", str(source), "--label", "cup", "--maps", "3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("cup ")
    assert (Image.open(out).format, Image.open(out).width) == ("JPEG", WIDTH)


def test_the_command_explains_fine_tuned_models_and_refuses_detectors(
    task: classify.Classification, tmp_path: Path
) -> None:
    photo("coffee").save(tmp_path / "photo.png")
    write_model(tmp_path / "shapes", task.base, seed=1)
    write_localizer(tmp_path / "main", ("espresso", "tiger cat"))
    write_detector(tmp_path / "named", ("cup",))
    asked = ["explain", str(tmp_path / "photo.png"), "--models-dir", str(tmp_path), "--out", str(tmp_path / "out.png")]
    for name, status, said in (
        ("shapes", 0, "out.png"),
        ("main", 0, "espresso"),
        ("named", 2, "detect"),
        ("none", 1, "no model 'none'"),
    ):
        result = CliRunner().invoke(app, [*asked, "--model", name])
        assert (result.exit_code, said in result.output) == (status, True), result.output
    assert Image.open(tmp_path / "out.png").width == WIDTH


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    source, text = tmp_path / "photo.png", tmp_path / "photo.txt"
    photo("coffee").save(source)
    text.write_text("no photo")
    out = str(tmp_path / "out.png")
    for words, status, said in (
        ([str(source), "--label", "expresso", "--out", out], 1, "espresso"),
        ([str(text), "--out", out], 1, "foursight explain:"),
        ([str(source), "--out", str(tmp_path / "none" / "out.png")], 1, "foursight explain:"),
        ([str(source), "--out", "out.gif"], 2, ".png"),
        ([str(source), "--task", "detect", "--out", out], 2, "classify"),
        ([str(tmp_path / "missing.jpg")], 2, "missing.jpg"),
    ):
        result = CliRunner().invoke(app, ["explain", *words])
        assert (result.exit_code, said in result.output, "Traceback" in result.output) == (status, True, False), words
    assert not (tmp_path / "out.png").exists()
