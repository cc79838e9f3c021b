from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lm.errors import ModelFolderError
from lm.loading import check_loadable, load_causal_lm, load_tokenizer


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


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


def test_a_model_whose_template_knows_no_system_turn_is_refused_before_its_weights_are_read(
    copy: Path,
) -> None:
    """As some families' are; found at the first text, it would end what was paid for."""
    refusing = "{{ raise_exception('System role not supported') }}"
    (copy / "chat_template.jinja").write_text(refusing, encoding="utf-8")

    with pytest.raises(ModelFolderError, match=f"chat template of {copy} to keep a system"):
        check_loadable(copy)


def test_loaded_models_are_frozen(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)

    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_a_tokenizer_always_has_a_padding_token(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")

    assert load_tokenizer(copy).pad_token_id is not None
