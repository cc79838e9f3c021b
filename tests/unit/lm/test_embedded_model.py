"""The shipped GGUF is stood in for by a tiny model, so that nothing large is converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lm import embedded_model
from lm.errors import ModelFolderError
from lm.model_folders import resolve_base_model


@pytest.fixture
def stand_in(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    written: list[Path] = []

    def write(gguf: Path, folder: Path) -> None:
        written.append(folder)
        shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)

    monkeypatch.setattr(embedded_model, "_embedded_gguf", lambda: Path("model.gguf"))
    monkeypatch.setattr(embedded_model, "_write_ordinary_folder", write)
    return written


def test_it_is_materialised_once(stand_in: list[Path], tmp_path: Path) -> None:
    first = resolve_base_model("smollm2-135m", cache_folder=tmp_path)
    second = resolve_base_model("smollm2-135m", cache_folder=tmp_path)

    assert first == second
    assert len(stand_in) == 1


def test_a_killed_materialisation_is_redone(
    stand_in: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder gets its name last, so what a kill leaves behind is never taken for whole."""

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded_model, "_sync_folder", die)
        with pytest.raises(KeyboardInterrupt):
            resolve_base_model("smollm2-135m", cache_folder=tmp_path)
    assert not list((tmp_path / "models").glob("smollm2*"))

    folder = resolve_base_model("smollm2-135m", cache_folder=tmp_path)

    assert (folder / "model.safetensors").is_file()
    assert len(stand_in) == 2


def test_a_full_disk_is_told_as_such(
    stand_in: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded_model, "_sync_folder", fill)

    with pytest.raises(ModelFolderError, match=r"No space left.*REWARDDS_CACHE"):
        resolve_base_model("smollm2-135m", cache_folder=tmp_path)


def test_a_cache_in_whose_place_a_file_stands_is_told_as_such(
    stand_in: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(ModelFolderError, match=r"Expected to write.*REWARDDS_CACHE"):
        resolve_base_model("smollm2-135m", cache_folder=tmp_path / "cache")
