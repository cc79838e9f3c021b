from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lm import model_folders
from lm.errors import ModelFolderError
from lm.loading import load_tokenizer
from lm.model_folders import base_model_digest, default_cache_folder, resolve_base_model


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


@pytest.mark.parametrize(
    ("file_name", "content"),
    [
        ("config.json", b'{"model_type": "lla'),
        ("config.json", b"[]"),
        ("generation_config.json", b""),
        ("tokenizer_config.json", b'{"pad_token": "\xff"}'),
        ("tokenizer_config.json", b'{"eos_token": {"conte'),
        ("chat_template.jinja", b"{{ messages }}\xff"),
    ],
)
def test_a_torn_file_of_settings_is_refused_by_its_path(
    copy: Path, file_name: str, content: bytes
) -> None:
    (copy / file_name).write_bytes(content)

    with pytest.raises(ModelFolderError, match=str(copy / file_name)):
        resolve_base_model(str(copy))
    with pytest.raises(ModelFolderError, match=str(copy / file_name)):
        base_model_digest(copy)


def test_named_templates_that_lack_a_part_are_no_template(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    _change_json(copy / "tokenizer_config.json", chat_template=["default", {"name": "default"}])

    with pytest.raises(ModelFolderError, match="Expected a chat template"):
        resolve_base_model(str(copy))


def test_the_home_of_an_unknown_user_is_no_model() -> None:
    with pytest.raises(ModelFolderError, match="found nothing at '~nobodys-name/model'"):
        resolve_base_model("~nobodys-name/model")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"REWARDDS_CACHE": "~/there"}, "there"),
        ({"REWARDDS_CACHE": "", "XDG_CACHE_HOME": "~/xdg"}, "xdg/rewardds"),
        ({"XDG_CACHE_HOME": ""}, ".cache/rewardds"),
    ],
)
def test_the_cache_lies_where_the_environment_says_and_nowhere_by_an_empty_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], folder: str
) -> None:
    monkeypatch.delenv("REWARDDS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert default_cache_folder() == tmp_path / folder


def test_digest_follows_the_template(copy: Path) -> None:
    before = base_model_digest(copy)

    (copy / "chat_template.jinja").write_text("other", encoding="utf-8")

    assert base_model_digest(copy) != before


@pytest.mark.parametrize("file_name", ["model.safetensors", "tokenizer.json"])
def test_digest_follows_every_byte_of_weights_and_tokenizer(copy: Path, file_name: str) -> None:
    before = base_model_digest(copy)
    content = bytearray((copy / file_name).read_bytes())

    content[-1] ^= 1
    (copy / file_name).write_bytes(content)

    assert base_model_digest(copy) != before


def test_digest_follows_the_shape_that_the_config_states(copy: Path) -> None:
    before = base_model_digest(copy)

    _change_json(copy / "config.json", num_hidden_layers=1)

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

    assert model_folders._chat_template(copy) == load_tokenizer(copy).get_chat_template()
    (copy / "chat_template.jinja").unlink()
    assert model_folders._chat_template(copy) == load_tokenizer(copy).get_chat_template()


def test_digest_ignores_which_library_version_wrote_the_config(copy: Path) -> None:
    before = base_model_digest(copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))

    config["transformers_version"] = "0.0"
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")

    assert base_model_digest(copy) == before


def test_a_folder_is_checked_and_digested_without_a_models_libraries(tiny_llama: Path) -> None:
    """A wrong path is told at once, and whoever only greets loads nothing."""
    program = (
        "import sys; from pathlib import Path; from lm.model_folders import *\n"
        "base_model_digest(resolve_base_model(sys.argv[1]))\n"
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", program, str(tiny_llama)], check=False)

    assert done.returncode == 0
