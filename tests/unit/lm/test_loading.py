from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lm import loading
from lm.errors import ModelFolderError
from lm.loading import (
    base_model_digest,
    load_causal_lm,
    load_tokenizer,
    resolve_base_model,
)


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def test_a_local_folder_is_its_own_answer(tiny_llama: Path) -> None:
    assert resolve_base_model(str(tiny_llama)) == tiny_llama


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "chat template"),
        ("model.safetensors", "safetensors"),
        ("config.json", "architecture"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_name(copy: Path, missing: str, told: str) -> None:
    (copy / missing).unlink()

    with pytest.raises(ModelFolderError, match=told):
        resolve_base_model(str(copy))


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="found nothing"):
        resolve_base_model(str(tmp_path / "nowhere"))


def test_pickled_weights_are_not_read(copy: Path) -> None:
    """A .bin file is a pickle, and a pickle is code."""
    torch.save({}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()

    with pytest.raises(ModelFolderError, match="safetensors"):
        load_causal_lm(copy)


def test_a_torn_weights_file_is_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(ModelFolderError, match="loadable causal language model"):
        load_causal_lm(copy)


def test_digest_follows_weights_and_template(copy: Path) -> None:
    before = base_model_digest(copy)

    (copy / "chat_template.jinja").write_text("other", encoding="utf-8")

    assert base_model_digest(copy) != before


def _move_template_into_the_tokenizer_settings(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _change_json(folder / "tokenizer_config.json", chat_template=text)


def _change_json(file: Path, **values: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **values}), encoding="utf-8")


def test_digest_follows_a_template_that_stands_in_the_tokenizer_settings(copy: Path) -> None:
    """Many a published model keeps it there; edited, the same adapter would see other text."""
    template = (copy / "chat_template.jinja").read_text(encoding="utf-8")
    before = base_model_digest(copy)

    _move_template_into_the_tokenizer_settings(copy, template)
    moved = base_model_digest(copy)
    _move_template_into_the_tokenizer_settings(copy, template + " ")

    assert moved == before
    assert base_model_digest(copy) != before


@pytest.mark.parametrize(
    ("file_name", "values"),
    [
        ("generation_config.json", {"eos_token_id": [0, 1]}),
        ("tokenizer_config.json", {"eos_token": {"content": "<other>"}}),
    ],
)
def test_digest_follows_where_a_text_ends(
    copy: Path, file_name: str, values: dict[str, object]
) -> None:
    before = base_model_digest(copy)

    _change_json(copy / file_name, **values)

    assert base_model_digest(copy) != before


def test_the_template_that_is_digested_is_the_one_that_is_used(copy: Path) -> None:
    texts = {"default": "the default", "tool_use": "with tools"}
    _change_json(
        copy / "tokenizer_config.json",
        chat_template=[{"name": name, "template": text} for name, text in texts.items()],
    )

    assert loading._chat_template(copy) == load_tokenizer(copy).get_chat_template()
    (copy / "chat_template.jinja").unlink()
    assert loading._chat_template(copy) == load_tokenizer(copy).get_chat_template()


def test_digest_ignores_which_library_version_wrote_the_config(copy: Path) -> None:
    before = base_model_digest(copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))

    config["transformers_version"] = "0.0"
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")

    assert base_model_digest(copy) == before


def test_loaded_models_are_frozen(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)

    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_a_tokenizer_always_has_a_padding_token(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")

    assert load_tokenizer(copy).pad_token_id is not None


class TestEmbeddedModel:
    """The shipped GGUF is stood in for by a tiny model, so that nothing large is converted."""

    @pytest.fixture
    def stand_in(self, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        written: list[Path] = []

        def write(gguf: Path, folder: Path) -> None:
            written.append(folder)
            shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)

        monkeypatch.setattr(loading, "_embedded_gguf", lambda: Path("model.gguf"))
        monkeypatch.setattr(loading, "_write_ordinary_folder", write)
        return written

    def test_it_is_materialised_once(self, stand_in: list[Path], tmp_path: Path) -> None:
        first = resolve_base_model("smollm2-135m", cache_folder=tmp_path)
        second = resolve_base_model("smollm2-135m", cache_folder=tmp_path)

        assert first == second
        assert len(stand_in) == 1

    def test_a_killed_materialisation_is_redone(
        self, stand_in: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The folder gets its name last, so what a kill leaves behind is never taken for whole."""

        def die(folder: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(loading, "_sync_folder", die)
            with pytest.raises(KeyboardInterrupt):
                resolve_base_model("smollm2-135m", cache_folder=tmp_path)
        assert not list((tmp_path / "models").glob("smollm2*"))

        folder = resolve_base_model("smollm2-135m", cache_folder=tmp_path)

        assert (folder / "model.safetensors").is_file()
        assert len(stand_in) == 2

    def test_a_full_disk_is_told_as_such(
        self, stand_in: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(loading, "_sync_folder", fill)

        with pytest.raises(ModelFolderError, match=r"No space left.*REWARDDS_CACHE"):
            resolve_base_model("smollm2-135m", cache_folder=tmp_path)
