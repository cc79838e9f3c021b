"""Load a base model and its tokenizer from a checked folder.

Remote code is never trusted; weights are read from safetensors only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lm.adapter_shapes import ADAPTABLE
from lm.encoding import end_of_turn_ids
from lm.errors import ModelFolderError
from lm.model_folders import check_model_folder
from lm.supported import check_attention, check_config, check_head, check_weights


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a checked model folder."""
    check_model_folder(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_loadable(folder: Path) -> frozenset[str]:
    """Find out that a model can be loaded, from all but its weights.

    Args:
        folder: A model folder.

    Returns:
        Last names of the layers that an adapter can sit on.

    Raises:
        ModelFolderError: Its architecture, tokenizer, chat template or weights cannot be used, or
            it is of a kind that is not handled rightly (`lm.supported`).
    """
    try:
        end_of_turn_ids(load_tokenizer(folder))
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="np"):
                pass  # a file that is cut off is noticed by its header
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_config(folder, config)
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        check_head(folder, model)
        check_attention(folder, model)
        quiet_transformers()
        check_weights(folder, model)
    except ModelFolderError:
        raise
    except Exception as error:  # of four libraries, each with kinds of its own
        first = str(error).partition("\n")[0]
        raise ModelFolderError(
            f"Expected a loadable causal language model in {folder}, found {type(error).__name__}: "
            f"{first} Check the folder, or save the model there again."
        ) from error
    names = (
        ADAPTABLE.fullmatch(f"{name}.weight")
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    )
    return frozenset(name["leaf"] for name in names if name)


def load_causal_lm(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> PreTrainedModel:
    """Load a causal language model, frozen and in evaluation mode.

    Args:
        folder: A checked model folder.
        dtype: In what the weights are held.
        device: A torch device.

    Returns:
        The model; none of its weights requires a gradient.

    Raises:
        ModelFolderError: The folder cannot be loaded.
    """
    check_model_folder(folder)
    quiet_transformers()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelFolderError(
            f"Expected a loadable causal language model in {folder}, found {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]} Check the folder, or save the model there again."
        ) from error
    model.requires_grad_(False)
    return model.to(device).eval()


def quiet_transformers() -> None:
    """Turn off progress bars and advice that would run through this project's own progress."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
