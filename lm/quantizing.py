"""A base model held in 4 bits, for an adapter to be trained over it.

Reference: NF4 with double quantisation, Dettmers et al., "QLoRA" (NeurIPS 2023), by the package
bitsandbytes, which is optional. The output head and the norms stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from lm.errors import ModelFolderError
from lm.loading import quiet_transformers
from lm.model_folders import check_model_folder


def load_quantized_causal_lm(
    folder: Path, *, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> PreTrainedModel:
    """Load a causal language model with its linear layers in 4 bits, frozen.

    Args:
        folder: A checked model folder.
        dtype: In what is computed, and in what the other weights are held.
        device: A torch device.

    Raises:
        ModelFolderError: The folder cannot be loaded, or bitsandbytes cannot run on the device.
    """
    check_model_folder(folder)
    quiet_transformers()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelFolderError(
            f"Expected to load {folder} in 4 bits on {device}, found {type(error).__name__}: "
            f"{error}. Install a bitsandbytes that runs on this machine, or tune without qlora."
        ) from error
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # In evaluation mode a CPU would pack the weights for good, in a form without backward.
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    return model.eval()
