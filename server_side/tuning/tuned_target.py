"""The tuned target on disk, whatever was tuned: an adapter over the target, or a model of its own.

`finetuning.method` decides which. An adapter is a PEFT folder
(`server_side/tuning/target_adapter.py`); a target of which every weight was tuned is an ordinary
model folder in float32, so that no small update is rounded away. Every later stage takes either
kind by its folder and asks this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm.adapters import load_adapter
from lm.disk import write_folder
from lm.loading import load_causal_lm
from lm.model_folders import base_model_digest
from server_side.tuning.target_adapter import adapter_digest, merge_target, read_adapter

TUNED: Final = "tuned"
"""Name of the tuned target's folder within the folder of its stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedTarget:
    """A tuned target."""

    folder: Path
    """PEFT folder for `peft.PeftModel.from_pretrained(target, folder)`, or a model folder."""
    digest: str
    """SHA-256 of what was tuned, as hexadecimal text."""
    num_steps: int
    """Optimiser steps of the training."""
    losses: tuple[float, ...]
    """Loss of the objective in each step; for sft the mean of a response token, in nats."""
    num_pairs_dropped: int
    """Samples left out by orpo or dpo because both responses are the same, or one is empty."""


def is_adapter(folder: Path) -> bool:
    """Return whether a tuned target is an adapter; otherwise it is a whole model."""
    return (folder / "adapter_config.json").is_file()


def tuned_digest(folder: Path) -> str:
    """Return the SHA-256 of a stored tuned target."""
    return adapter_digest(folder) if is_adapter(folder) else base_model_digest(folder)


def load_tuned_target(
    target_folder: Path, tuned: Path | None, *, dtype: torch.dtype, device: str
) -> nn.Module:
    """Load the target, untuned or tuned, frozen and in evaluation mode.

    An adapter is added to the activations, not merged: merging into bfloat16 rounds small updates
    away and would give another model than the one that was tuned.

    Args:
        target_folder: Folder of the untuned target.
        tuned: Folder of the tuned one; None loads the untuned one.
        dtype: In what the model's weights are held; an adapter stays in float32.
        device: A torch device.

    Returns:
        A causal language model; PEFT's wrapping of one where an adapter was tuned.
    """
    is_whole = tuned is not None and not is_adapter(tuned)
    folder = tuned if tuned is not None and is_whole else target_folder
    model: nn.Module = load_causal_lm(folder, dtype=dtype, device=device)
    if tuned is not None and not is_whole:
        stored = read_adapter(tuned)
        model = load_adapter(model, stored.tensors, stored.lora)
    return model


def merge_tuned_target(*, target_folder: Path, tuned: Path, out_folder: Path) -> Path:
    """Return the tuned target as an ordinary model folder, written if it is not one already.

    Args:
        target_folder: Folder of the untuned target.
        tuned: Folder of the tuned one.
        out_folder: Where to merge an adapter; an existing one is whole and is returned as it is.

    Returns:
        `out_folder`, or `tuned` where that is a model folder.
    """
    return (
        merge_target(target_folder=target_folder, adapter=tuned, out_folder=out_folder)
        if is_adapter(tuned)
        else tuned
    )


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model of which every weight was tuned.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        folder: Where to write; it appears only when whole. An older one there is replaced.

    Raises:
        DiskError: The disk is full or refuses.
    """

    def fill(part: Path) -> None:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)

    write_folder(folder, fill, replaces=True)
