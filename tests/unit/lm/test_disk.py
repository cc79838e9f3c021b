"""A full disk is told in words, whichever library meets it, and leaves nothing half-made."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lm.adapters import adapter_tensors, attach_lora, merge_adapter, write_peft_folder
from lm.disk import clear_disk_errors, disk_trouble, in_words, write_folder
from lm.errors import DiskError
from lm.loading import load_causal_lm, load_tokenizer
from protocol.artifacts import LoraShape

LORA = LoraShape(
    rank=32, alpha=4.0, target_modules=("q_proj",), num_upper_layers=None, use_rslora=False
)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Let no file of this process grow beyond a kilobyte: the same errors as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def by_python(path: Path) -> None:
    path.write_bytes(b"0" * 4096)


def by_safetensors(path: Path) -> None:
    save_file({"a": np.zeros(4096)}, path)


def by_torch(path: Path) -> None:
    torch.save({"a": torch.zeros(4096)}, path)


@pytest.mark.parametrize("write", [by_python, by_safetensors, by_torch])
def test_a_full_disk_is_told_by_its_path_whichever_library_meets_it(
    tmp_path: Path, small_disk: None, write: Callable[[Path], None]
) -> None:
    with pytest.raises(DiskError) as caught, clear_disk_errors(tmp_path):
        write(tmp_path / "file")

    assert str(tmp_path) in str(caught.value)
    assert "Make room" in str(caught.value)


def test_a_tokenizer_that_finds_no_room_is_told_as_such(
    tmp_path: Path, tiny_llama: Path, small_disk: None
) -> None:
    tokenizer = load_tokenizer(tiny_llama)

    with pytest.raises(DiskError, match="File too large"), clear_disk_errors(tmp_path):
        tokenizer.save_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("write", [write_peft_folder, merge_adapter])
def test_weights_that_find_no_room_leave_no_folder_and_can_be_written_again(
    tmp_path: Path, tiny_llama: Path, write: Callable[..., Path]
) -> None:
    tensors = adapter_tensors(attach_lora(load_causal_lm(tiny_llama), LORA, seed=0))
    out_folder = tmp_path / "out"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", _raise_no_space)
        with pytest.raises(DiskError, match=r"out, found: No space left"):
            write(tiny_llama, tensors, LORA, out_folder=out_folder)

    assert not list(tmp_path.iterdir())
    assert write(tiny_llama, tensors, LORA, out_folder=out_folder).is_dir()


def test_a_folder_is_replaced_only_where_that_is_asked(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", lambda part: by_text(part, "first"))
    write_folder(tmp_path / "a", lambda part: by_text(part, "late"))
    assert (tmp_path / "a" / "text").read_text() == "first"

    write_folder(tmp_path / "a", lambda part: by_text(part, "second"), replaces=True)
    assert (tmp_path / "a" / "text").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_may_hold_folders_as_of_a_tokenizer_with_several_templates(
    tmp_path: Path, tiny_llama: Path
) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = {"default": template, "tool_use": template}  # type: ignore[assignment]

    write_folder(tmp_path / "out", lambda part: tokenizer.save_pretrained(part))

    assert (tmp_path / "out" / "additional_chat_templates" / "tool_use.jinja").is_file()


def by_text(folder: Path, text: str) -> None:
    (folder / "text").write_text(text)


@pytest.mark.parametrize(
    "error",
    [ValueError("disk"), RuntimeError("shape"), FileNotFoundError(2, "No such file", "a")],
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    assert disk_trouble(error) is None
    with pytest.raises(type(error)) as caught, clear_disk_errors(tmp_path):
        raise error

    assert caught.value is error


def test_a_command_never_ends_with_the_number_of_an_error_alone(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")

    assert in_words(full, place=tmp_path).startswith(f"Expected to be able to use {tmp_path}, ")
    assert "Make room" in in_words(full)
    assert in_words(FileNotFoundError(2, "No such file", "a")).startswith(
        "Expected to be able to use a, found: No such file."
    )
    assert in_words(ValueError("said already")) == "said already"


def _raise_no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
