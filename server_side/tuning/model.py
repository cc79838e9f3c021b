"""The target as stage 11 trains it: fresh or as the last round left it, by `finetuning.method`.

- `lora`: the base frozen in `finetuning.dtype`, an adapter in float32 over it.
- `qlora`: the same over a base held in 4 bits (`lm/quantizing.py`). The adapter belongs to the
  target all the same: later stages use it with the target's own weights.
- `full`: every weight, in float32; with `dtype: bfloat16` they compute in it under autocast.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from lm.adapter_shapes import expected_adapter_shapes
from lm.adapters import attach_lora, load_adapter
from lm.devices import best_device, resolve_dtype
from lm.loading import load_causal_lm
from lm.quantizing import load_quantized_causal_lm
from protocol.artifacts import LoraShape
from protocol.errors import ConfigurationError
from server_side.config import FinetuningConfig
from server_side.config.finetuning import Method
from server_side.tuning.target_adapter import read_adapter
from server_side.tuning.tuned_target import is_adapter


def trainable_target(
    target_folder: Path, previous: Path | None, config: FinetuningConfig, *, seed: int
) -> PreTrainedModel | PeftModel:
    """Load the target with the weights that are to be tuned set free.

    Args:
        target_folder: Folder of the untuned target.
        previous: Folder of the tuned target to go on from; None starts from the target.
        config: What is tuned.
        seed: Seed of a fresh adapter's weights.

    Returns:
        The whole model for `full`, else a frozen base with an adapter whose weights alone are free.

    Raises:
        ConfigurationError: The previous round was tuned by another method, or in another shape.
        ModelFolderError: A folder cannot be loaded.
    """
    is_full = config.method == Method.FULL
    if previous is not None and is_adapter(previous) is is_full:
        found = "an adapter" if is_full else "a whole model"
        raise ConfigurationError(
            f"Expected {previous} to be tuned with finetuning.method={config.method}, found "
            f"{found}. Keep the method as it is within a run."
        )
    if is_full:
        model = load_causal_lm(previous or target_folder, device=best_device())
        model.requires_grad_(True)
        return model
    lora = LoraShape(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        target_modules=tuple(sorted(config.target_modules)),
        num_upper_layers=config.num_upper_layers,
        use_rslora=config.use_rslora,
    )
    load = load_quantized_causal_lm if config.method == Method.QLORA else load_causal_lm
    device = best_device()
    base = load(target_folder, dtype=resolve_dtype(config.dtype, device), device=device)
    if previous is None:
        adapted = attach_lora(base, lora, seed=seed)
    else:
        stored = read_adapter(previous)
        expected = expected_adapter_shapes(target_folder, lora, has_reward_head=False)
        shapes = {name: tensor.shape for name, tensor in stored.tensors.items()}
        scale = (stored.lora.alpha, stored.lora.use_rslora)
        if shapes != expected or scale != (lora.alpha, lora.use_rslora):
            raise ConfigurationError(
                f"Expected the adapter in {previous} to have the configured shape {lora}, found "
                f"{stored.lora}. Keep lora_rank, lora_alpha, use_rslora, target_modules and "
                "num_upper_layers of finetuning as they are within a run."
            )
        adapted = load_adapter(base, stored.tensors, lora, is_trainable=True)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = torch.nn.Dropout(config.lora_dropout)
    return adapted
