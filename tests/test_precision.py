"""bfloat16 and int8: they are really used, their results are close to float32, and they are refused if unavailable."""

import sys
from collections.abc import Callable
from inspect import getclosurevars
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from foursight.models import load
from foursight.models.engines import cache, engine
from foursight.models.engines import precision as precision_module
from foursight.models.engines.precision import PrecisionConfig
from foursight.models.errors import PrecisionError
from foursight.serving.launch import LaunchError, running
from foursight.serving.settings import Settings
from tests.photos import encoded, photo

CPU = torch.device("cpu")
PHOTOS = ("chelsea", "coffee", "astronaut")
HAS_BFLOAT16 = "BF16" in precision_module._capabilities()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three images and a text file; compiled models are cached beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in PHOTOS:
        (folder / f"{name}.jpg").write_bytes(encoded(photo(name), "JPEG"))
    (folder / "notes.txt").write_text("no photo")
    return folder


def kernels(run: engine.Run) -> set[str]:
    """Return the precisions that OpenVINO reports for its compiled convolutions."""
    request: Any = getclosurevars(getclosurevars(run).nonlocals["on_arrays"]).nonlocals["request"]
    model = request.get_compiled_model().get_runtime_model()
    nodes = [node.get_rt_info() for node in model.get_ops()]
    return {node["runtimePrecision"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"}


class Part(nn.Module):
    """Two convolutions with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.layers(pixels)
        return found


def samples() -> list[tuple[Tensor]]:
    return [(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)),) for seed in range(8)]


def compiled(chosen: PrecisionConfig, given: Callable[[], list[tuple[Tensor]]] | None = samples) -> engine.Engine:
    return engine.compile(Part().eval(), (torch.randn(2, 3, 8, 8),), (torch.randn(3, 3, 16, 24),), CPU, chosen, given)


@pytest.mark.parametrize(
    ("precision", "kernel", "off"), [("float32", "f32", 1e-5), ("bfloat16", "bf16", 0.02), ("int8", "i8", 0.05)]
)
def test_a_part_computes_in_the_requested_precision(precision: Any, kernel: str, off: float, photos: Path) -> None:
    if precision == "bfloat16" and not HAS_BFLOAT16:
        with pytest.raises(PrecisionError, match="no bfloat16 instructions"):
            PrecisionConfig(precision).require()
        return
    run = compiled(PrecisionConfig(precision, photos))
    assert run.dtype == precision
    # The first layer's input has the type of the part's input.
    assert kernel in kernels(run.run) | ({"i8"} if "u8" in kernels(run.run) else set())
    (pixels,) = samples()[0]
    with torch.no_grad():
        own = Part()(pixels)
    assert float((run(pixels)[0] - own).abs().mean()) < off * float(own.abs().mean())


def test_a_part_without_samples_stays_in_float32(photos: Path) -> None:
    run = compiled(PrecisionConfig("int8", photos), None)
    assert run.dtype == "float32"
    assert kernels(run.run) == {"f32"}


def test_a_quantized_part_is_cached_by_its_calibration_images(photos: Path) -> None:
    asked = []

    def watched() -> list[tuple[Tensor]]:
        asked.append(1)
        return samples()

    for _ in range(2):
        compiled(PrecisionConfig("int8", photos), watched)
    assert len(asked) == 1
    (photos / "coffee.jpg").unlink()
    compiled(PrecisionConfig("int8", photos), watched)
    compiled(PrecisionConfig("float32"), watched)
    assert len(asked) == 2
    assert len(list(cache.folder().iterdir())) == 3


def test_labels_in_int8_are_close_and_the_card_has_the_precision(photos: Path) -> None:
    exact, quick = load("classify", "tiny", "cpu"), load("classify", "tiny", "cpu", PrecisionConfig("int8", photos))
    assert (exact.card.dtype, quick.card.dtype) == ("float32", "int8")
    for name in PHOTOS:
        prepared, options = exact.prepare(photo(name)), exact.options()
        own, mine = (task.predict([(prepared, task.resolve(options))])[0] for task in (exact, quick))
        assert own.probabilities.argmax() in np.argsort(-mine.probabilities)[:3]
        assert np.abs(own.probabilities - mine.probabilities).max() > 1e-3


def test_objects_are_found_in_int8(photos: Path) -> None:
    exact, quick = load("segment", "tiny", "cpu"), load("segment", "tiny", "cpu", PrecisionConfig("int8", photos))
    assert quick.card.dtype == "int8"
    prepared, options = exact.prepare(photo("astronaut")), exact.options(classes="person", max_detections=1)
    own, mine = (task.predict([(prepared, task.resolve(options))])[0] for task in (exact, quick))
    assert float(box_iou(torch.tensor(mine.boxes), torch.tensor(own.boxes))) > 0.5
    assert mine.masks is not None


def test_calibration_images_are_spread_evenly_over_the_folder(tmp_path: Path) -> None:
    for count in (1, 64, 100, 200):
        (tmp_path / str(count)).mkdir()
        for index in range(count):
            (tmp_path / str(count) / f"{index:03}.jpg").touch()
        names = [int(path.stem) for path in PrecisionConfig("int8", tmp_path / str(count)).files]
        assert len(names) == min(count, precision_module.MAX_IMAGES)
        gaps = np.diff([*names, count])
        assert names[0] == 0
        assert gaps.max() - gaps.min() <= 1


def launch(**settings: Any) -> None:
    with running(Settings(port=8994, **settings)):
        raise AssertionError("the server has started")


def test_a_server_does_not_start_in_an_unavailable_precision(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match=r"no images to calibrate on. Set calibration_dir"):
        launch(precision="int8")
    (photos / "empty").mkdir()
    with pytest.raises(LaunchError, match="no images in"):
        launch(precision="int8", calibration_dir=photos / "empty")
    (photos / "coffee.jpg").write_bytes(b"no photo")
    with pytest.raises(LaunchError, match=r"coffee.jpg cannot be read"):
        launch(precision="int8", calibration_dir=photos)
    with pytest.raises(LaunchError, match="--precision int8 is for CPUs"):
        launch(precision="int8", calibration_dir=photos, device="cuda")
    for package, precision in (("nncf", "int8"), ("openvino", "bfloat16")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(LaunchError, match=r"is not installed. Install the package"):
                launch(precision=precision, calibration_dir=photos)
