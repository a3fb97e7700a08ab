"""Weights of the standard profile: downloaded once, checked by hash, and loaded into torchvision's network."""

import hashlib
import io
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.hub import set_dir
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models._api import Weights
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2, maskrcnn_resnet50_fpn_v2

from foursight.models import TASKS, load, run
from foursight.models.errors import WeightsError
from foursight.models.networks import backbone, weights
from foursight.models.tasks import classify, detect, segment
from tests.helpers import settle, without_openvino
from tests.photos import photo
from tests.stubs import Stub

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture(autouse=True)
def in_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines would remove the weights from the network, and fill the cache with random networks."""
    without_openvino(monkeypatch)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the cached files."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    before = torch.hub._hub_dir
    set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub._hub_dir = before


def saved(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def name_of(data: bytes) -> str:
    return f"net-{hashlib.sha256(data).hexdigest()[:8]}.pth"


def published(url: str, transforms: Callable | None = None) -> Weights:
    return Weights(url=url, transforms=transforms, meta={"_file_size": 97.8})


def test_weights_are_downloaded_once(cache: Path) -> None:
    data = saved(STATE)
    with Stub(data) as publisher:
        source = published(f"{publisher.url}/models/{name_of(data)}")
        path = weights.fetch(source)
        assert path == cache / name_of(data)
        assert path.read_bytes() == data
        assert weights.fetch(source) == path
        assert publisher.requests == [f"/models/{name_of(data)}"]
    state = weights.state_dict(source)
    assert state.keys() == STATE.keys()
    assert torch.equal(state["layer.weight"], STATE["layer.weight"])


def test_a_download_with_a_wrong_hash_is_refused_and_removed(cache: Path) -> None:
    with Stub(b"not what was published") as publisher, pytest.raises(WeightsError) as caught:
        weights.fetch(published(f"{publisher.url}/{name_of(saved(STATE))}"))
    assert caught.value.code == "weights_corrupt"
    assert "arrived with a wrong SHA-256" in caught.value.detail
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused_without_a_request(cache: Path) -> None:
    data = saved(STATE)
    cache.mkdir()
    (cache / name_of(data)).write_bytes(data[:-1] + b"?")
    with Stub(data) as publisher, pytest.raises(WeightsError) as caught:
        weights.fetch(published(f"{publisher.url}/{name_of(data)}"))
    assert caught.value.code == "weights_corrupt"
    assert "in the cache" in caught.value.detail
    assert str(cache) in caught.value.hint
    assert publisher.requests == []


def test_without_a_network_the_error_names_the_file_and_what_to_do(cache: Path) -> None:
    with Stub(b"") as publisher:
        gone = publisher.url
    with pytest.raises(WeightsError) as caught:
        weights.fetch(published(f"{gone}/net-0123abcd.pth"))
    assert caught.value.code == "weights_unavailable"
    message = str(caught.value)
    for part in ("net-0123abcd.pth", "98 MB", gone, str(cache), "the tiny profile"):
        assert part in message
    assert list(cache.iterdir()) == []


def test_a_file_that_the_server_does_not_have_is_unavailable(cache: Path) -> None:
    with Stub(b"no such file", status=404) as publisher, pytest.raises(WeightsError) as caught:
        weights.fetch(published(f"{publisher.url}/net-0123abcd.pth"))
    assert caught.value.code == "weights_unavailable"
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("task", TASKS)
def test_the_file_of_each_task_has_a_hash_in_its_name_that_is_checked(cache: Path, task: str) -> None:
    name = weights.cached_path(import_module(TASKS[task].module).published()).name
    with Stub(b"not what was published") as publisher, pytest.raises(WeightsError, match="wrong SHA-256"):
        weights.fetch(published(f"{publisher.url}/{name}"))


@pytest.fixture
def network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """torchvision's ResNet-50 with random weights, whose file is in the cache."""
    torch.manual_seed(0)
    network = resnet50()
    settle(network, ResNet50_Weights.IMAGENET1K_V2.transforms()(photo("astronaut"))[None])
    with torch.no_grad():
        network.fc.weight *= 8
    data = saved(network.state_dict())
    cache.mkdir()
    (cache / name_of(data)).write_bytes(data)
    source = published(f"http://127.0.0.1:9/{name_of(data)}", ResNet50_Weights.IMAGENET1K_V2.transforms)
    monkeypatch.setattr(backbone, "PUBLISHED", source)
    return network


def test_the_standard_classifier_answers_as_torchvision_does(network: torch.nn.Module) -> None:
    task = classify.load("standard", "cpu")
    assert (task.card.name, task.card.parameters) == ("resnet50", sum(p.numel() for p in network.parameters()))
    preset = ResNet50_Weights.IMAGENET1K_V2.transforms()
    # 640 x 427 leaves an odd margin around the crop.
    for image in (photo("chelsea"), photo("coffee").resize((640, 427)), photo("coffee").resize((200, 300))):
        pixels = preset(image)
        with torch.inference_mode():
            expected = network(pixels[None]).softmax(1)[0].numpy()
        assert expected.max() > 0.02
        # The preset's crop, converted back to 0..255: ours may round to the next level, which changes a random
        # network's result.
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (preset.mean, preset.std))
        crop = ((pixels * std + mean) * 255).round().byte().permute(1, 2, 0).numpy()
        assert np.abs(task.prepare(image).astype(int) - crop).max() <= 1
        (actual,) = (output.probabilities for output in task.predict([(crop, task.resolve(task.options()))]))
        np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "module", "build"),
    [("detect", detect, fasterrcnn_resnet50_fpn_v2), ("segment", segment, maskrcnn_resnet50_fpn_v2)],
)
def test_the_standard_detectors_load_a_file_of_the_right_shape(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType, build: Callable
) -> None:
    original = build(weights=None, weights_backbone=None)
    data = saved(original.state_dict())
    source = Weights(f"http://127.0.0.1:9/{name_of(data)}", None, module.published().meta)
    cache.mkdir()
    (cache / name_of(data)).write_bytes(data)
    monkeypatch.setattr(module, "published", lambda: source)
    task = load(name, "standard", "cpu")
    assert len(task.card.labels) == 80
    assert {"person", "toothbrush"} <= set(task.card.labels)
    assert task.card.parameters == sum(parameter.numel() for parameter in original.parameters())
    loaded = task.network.network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in original.state_dict().items())


def test_the_standard_localizer_returns_a_box_inside_the_image(network: torch.nn.Module) -> None:
    found = run(load("localize", "standard", "cpu"), photo("coffee"), top_k=2)
    assert len(found.labels) == 2
    left, top, right, bottom = found.boxes[0]
    assert 0 <= left < right <= 600
    assert 0 <= top < bottom <= 400
