"""Where caches and models are kept on Linux."""

from pathlib import Path

import pytest

from foursight.models.engines import cache
from foursight.models.finetuned import store
from foursight.models.folders import cache_folder, data_folder


def test_folders_are_in_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "FOURSIGHT_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("features") == tmp_path / ".cache/foursight/features"
    assert data_folder("models") == tmp_path / ".local/share/foursight/models"
    assert cache.folder() == tmp_path / ".cache/foursight/engines"
    assert store.default_folder() == tmp_path / ".local/share/foursight/models"


def test_folders_follow_the_variables_of_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOURSIGHT_MODELS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert cache_folder("features") == tmp_path / "cache/foursight/features"
    assert store.default_folder() == tmp_path / "data/foursight/models"
    monkeypatch.setenv("FOURSIGHT_MODELS_DIR", str(tmp_path / "own"))
    assert store.default_folder() == tmp_path / "own"
