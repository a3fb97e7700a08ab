"""Engines: OpenVINO has the results of PyTorch, and its cache on disk is never trusted."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foursight.models import load
from foursight.models.engines import cache as engine_cache
from foursight.models.engines import engine
from tests.helpers import without_openvino
from tests.photos import photo

CPU = torch.device("cpu")
PHOTOS = ("chelsea", "coffee", "astronaut")
SAMPLE = Path(__file__).parents[1] / "serving" / "page" / "samples" / "riders.jpg"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return engine_cache.folder()


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that OpenVINO is not installed."""
    without_openvino(monkeypatch)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Records the parts that are converted and not read from the cache."""
    converted: list[nn.Module] = []
    convert = engine._convert
    monkeypatch.setattr(engine, "_convert", lambda ov, part, *rest: converted.append(part) or convert(ov, part, *rest))
    return converted


class Part(nn.Module):
    """A module with a buffer and two results."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("factor", torch.tensor(factor), persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = torch.relu(self.conv(pixels)) * self.factor
        return maps, maps.mean((2, 3))


def compiled(part: nn.Module) -> engine.Engine:
    return engine.compile(part.eval(), (torch.randn(2, 3, 8, 8),), (torch.randn(3, 3, 16, 24),), CPU)


def assert_equal(run: engine.Engine, part: nn.Module) -> None:
    """Compare results for sizes that the engine was not compiled with."""
    for shape in ((1, 3, 8, 8), (5, 3, 40, 16), (0, 3, 8, 8)):
        pixels = torch.randn(shape)
        with torch.no_grad():
            for mine, own in zip(run(pixels), part(pixels), strict=True):
                torch.testing.assert_close(mine, own, atol=1e-5, rtol=1e-5)


def answers(task: Any, **options: float) -> list[Any]:
    request = task.resolve(task.options(**options))
    return task.predict([(task.prepare(photo(name)), request) for name in PHOTOS])


def pytorchs(name: str, monkeypatch: pytest.MonkeyPatch, **options: float) -> list[Any]:
    with monkeypatch.context() as patch:
        without_openvino(patch)
        return answers(load(name, "tiny", "cpu"), **options)


def test_probabilities_equal_those_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pytorchs("classify", monkeypatch)
    task = load("classify", "tiny", "cpu")
    assert not caplog.records
    for mine, own in zip(answers(task), expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, own.probabilities, atol=1e-4)
        assert mine.probabilities.argmax() == own.probabilities.argmax()


def test_the_box_equals_that_of_pytorch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    expected = pytorchs("localize", monkeypatch)
    task = load("localize", "tiny", "cpu")
    assert not caplog.records
    for mine, own in zip(answers(task), expected, strict=True):
        np.testing.assert_allclose(mine.probabilities, own.probabilities, atol=1e-4)
        np.testing.assert_allclose(mine.box, own.box, atol=0.05)


@pytest.mark.parametrize("name", ["detect", "segment"])
def test_objects_equal_those_of_pytorch(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = pytorchs(name, monkeypatch, score_threshold=0.05)
    task = load(name, "tiny", "cpu")
    assert not caplog.records
    for mine, own in zip(answers(task, score_threshold=0.05), expected, strict=True):
        assert mine.indices.tolist() == own.indices.tolist()
        np.testing.assert_allclose(mine.scores, own.scores, atol=1e-4)
        np.testing.assert_allclose(mine.boxes, own.boxes, atol=0.05)
        assert (mine.masks is None) == (name == "detect")
        if own.masks is not None:
            np.testing.assert_allclose(mine.masks, own.masks, atol=1e-3)


def test_a_compiled_model_is_read_back(cache: Path, conversions: list[nn.Module]) -> None:
    part = Part()
    for _ in range(2):
        assert_equal(compiled(part), part)
    assert len(conversions) == 1
    (file,) = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def replace(file: Path) -> None:
    """Write a valid cache file that contains no compiled model."""
    engine_cache.write(file.name, b"something else")


@pytest.mark.parametrize("damage", [cut, flip, empty, replace])
def test_a_damaged_file_is_rebuilt(damage: Callable[[Path], None], cache: Path, conversions: list[nn.Module]) -> None:
    part = Part()
    compiled(part)
    (file,) = cache.iterdir()
    damage(file)
    assert_equal(compiled(part), part)
    assert len(conversions) == 2
    assert_equal(compiled(part), part)
    assert len(conversions) == 2


def test_other_weights_or_buffers_have_another_file(cache: Path) -> None:
    parts = [Part(), Part(factor=2), Part()]
    with torch.no_grad():
        parts[2].conv.bias += 1
    for part in parts:
        assert_equal(compiled(part), part)
    assert len(list(cache.iterdir())) == 3


def test_a_folder_that_others_can_write_to_is_not_read(cache: Path, conversions: list[nn.Module]) -> None:
    part = Part()
    compiled(part)
    cache.chmod(0o777)
    assert_equal(compiled(part), part)
    assert len(conversions) == 2


def test_an_engine_is_compiled_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    part = Part()
    assert_equal(compiled(part), part)


def test_the_least_recently_used_files_are_evicted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_cache, "MAX_BYTES", 2 * (32 + len(b"content")))
    for age, name in enumerate("ab"):
        engine_cache.write(name, b"content")
        os.utime(cache / name, (age, age))
    (cache / "killed.part").touch()
    os.utime(cache / "killed.part", (0, 0))
    assert engine_cache.read("a") == b"content"
    engine_cache.write("c", b"content")
    assert {path.name for path in cache.iterdir()} == {"a", "c"}


def test_a_network_that_cannot_be_traced_correctly_runs_in_pytorch(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Sized(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels * len(pixels)

    run = engine.compile(Sized(), (torch.ones(2, 3),), (torch.ones(3, 3),), CPU)
    assert torch.equal(run(torch.ones(5, 3))[0], torch.full((5, 3), 5.0))
    assert "differ" in caplog.text
    assert not cache.exists()


@pytest.mark.usefixtures("no_openvino")
def test_pytorch_is_used_without_openvino(cache: Path) -> None:
    part = Part()
    assert_equal(compiled(part), part)
    assert not cache.exists()


def test_openvino_cannot_send_telemetry(tmp_path: Path) -> None:
    """Test in a new process with a new home folder, where the telemetry would store its user ID."""
    script = """
import socket, sys, torch
from foursight.models.engines import engine
sys.addaudithook(lambda event, args: event == "socket.connect" and sys.exit("the network is tried"))
engine.compile(torch.nn.Linear(3, 3).eval(), (torch.ones(2, 3),), (torch.ones(3, 3),), torch.device("cpu"))
assert "openvino.tools.ovc" in sys.modules
assert sys.modules["openvino_telemetry"] is None
"""
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["foursight"]


# Loads a task, answers an image, and prints whether PyTorch was imported.
ANSWER = """
import sys
from PIL import Image
from foursight import models
task = models.load(sys.argv[1], "tiny", "cpu")
models.run(task, Image.open(sys.argv[2]).convert("RGB"))
print("torch" in sys.modules)
"""


def imports_pytorch(task: str, image: Path) -> bool:
    """Whether a process that answers an image imports PyTorch."""
    done = subprocess.run([sys.executable, "-c", ANSWER, task, str(image)], capture_output=True, text=True, check=True)
    return {"True\n": True, "False\n": False}[done.stdout]


@pytest.mark.parametrize("name", ["classify", "localize", "detect", "segment"])
def test_a_task_on_its_engines_needs_no_pytorch(name: str) -> None:
    assert not imports_pytorch(name, SAMPLE)


def test_networks_are_built_by_another_process_and_rebuilt_if_their_file_is_damaged(cache: Path) -> None:
    assert not imports_pytorch("classify", SAMPLE)
    files = sorted(cache.iterdir())
    assert len(files) == 2
    before = [file.stat().st_ino for file in files]
    assert not imports_pytorch("classify", SAMPLE)
    flip(files[0])
    assert not imports_pytorch("classify", SAMPLE)
    assert [file.stat().st_ino == inode for file, inode in zip(files, before, strict=True)] == [False, True]


def test_networks_are_built_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert imports_pytorch("classify", SAMPLE)
