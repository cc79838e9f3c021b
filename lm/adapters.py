"""LoRA weights: attach them to a model, take them out, put them back, merge them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import save_file
from transformers import PreTrainedModel

from lm.adapter_shapes import (
    LoraSpec,
    Tensors,
    adapted_layers,
    expected_adapter_shapes,
)
from lm.disk import write_folder
from lm.loading import load_causal_lm, load_tokenizer


def attach_lora(model: PreTrainedModel, lora: LoraSpec, *, seed: int) -> PeftModel:
    """Add a fresh adapter: random A from `seed` (public), zero B, float32 whatever the base is.

    Args:
        model: Frozen base model; changed in place.
        lora: Shape of the adapter.
        seed: Seed of the initial weights; it is no secret and no source of privacy.

    Returns:
        The model with a trainable adapter.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # PEFT still asks the model in a way that transformers will drop.
            warnings.filterwarnings("ignore", category=FutureWarning)
            return get_peft_model(model, _peft_config(lora, model.config.num_hidden_layers))


def freeze_a(model: PeftModel) -> None:
    """Leave every A as it was drawn, so that B alone is trained.

    The update is then linear in what is trained, and fewer weights means less noise under DP.

    Reference:
        FFA-LoRA: Sun et al., "Improving LoRA in Privacy-preserving Federated Learning" (ICLR 2024).
    """
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)


def adapter_tensors(model: PeftModel) -> dict[str, npt.NDArray[np.float32]]:
    """Return an adapter's weights by name, as float32 arrays, sorted by name."""
    return {
        _public_name(name): parameter.detach().to("cpu", torch.float32).numpy().copy()
        for name, parameter in sorted(model.named_parameters())
        if ".lora_A." in name or ".lora_B." in name
    }


def load_adapter(
    model: PreTrainedModel, tensors: Tensors, lora: LoraSpec, *, is_trainable: bool = False
) -> PeftModel:
    """Attach an adapter with given weights; tensors that are no adapter weights are left out.

    Args:
        model: Frozen base model; changed in place.
        tensors: Weights by the names that `adapter_tensors` gives. Their shapes are the caller's
            to check, against `expected_adapter_shapes`.
        lora: Shape of the adapter.
        is_trainable: Whether the adapter takes gradients; otherwise nothing of the model does.

    Returns:
        The model with the adapter.

    Raises:
        KeyError: A weight of the adapter is missing from `tensors`.
    """
    adapted = attach_lora(model, lora, seed=0)
    load_adapter_tensors(adapted, tensors)
    if not is_trainable:
        adapted.requires_grad_(False)
    return adapted


def load_adapter_tensors(model: PeftModel, tensors: Tensors) -> None:
    """Overwrite the weights of an attached adapter.

    Args:
        model: Model with an adapter; the base model's own weights stay as they are.
        tensors: As for `load_adapter`, shapes included.

    Raises:
        KeyError: A weight of the adapter is missing from `tensors`.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                value = torch.tensor(tensors[_public_name(name)], dtype=torch.float32)
                parameter.copy_(value)


def write_peft_folder(
    base_folder: Path, tensors: Tensors, lora: LoraSpec, *, out_folder: Path
) -> Path:
    """Write an adapter as the folder that PEFT, and whatever loads PEFT's adapters, reads.

    Args:
        base_folder: Folder of the base model.
        tensors: Adapter weights.
        lora: Shape of the adapter.
        out_folder: Where to write; an existing one is whole and is returned as it is.

    Returns:
        `out_folder`, which appears only when whole.

    Raises:
        DiskError: The disk is full or refuses.
    """
    if out_folder.is_dir():
        return out_folder
    shapes = expected_adapter_shapes(base_folder, lora, has_reward_head=False)
    config = json.loads((base_folder / "config.json").read_text(encoding="utf-8"))

    def fill(part: Path) -> None:
        peft_config = _peft_config(lora, int(config["num_hidden_layers"]))
        peft_config.base_model_name_or_path = str(base_folder)
        peft_config.inference_mode = True
        peft_config.save_pretrained(part)
        weights = {f"base_model.model.{name}": np.asarray(tensors[name]) for name in shapes}
        save_file(weights, part / "adapter_model.safetensors", metadata={"format": "pt"})

    write_folder(out_folder, fill)
    return out_folder


def merge_adapter(
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    *,
    out_folder: Path,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Write the base model with an adapter added in, as an ordinary model folder.

    Args:
        base_folder: Folder of the base model.
        tensors: Adapter weights.
        lora: Shape of the adapter.
        out_folder: Where to write; an existing one is whole and is returned as it is.
        dtype: In what the merged weights are stored; they are added up in float32.

    Returns:
        `out_folder`, which appears only when whole.

    Raises:
        DiskError: The disk is full or refuses.
    """
    if out_folder.is_dir():
        return out_folder
    model = load_adapter(load_causal_lm(base_folder), tensors, lora)
    merged = model.merge_and_unload().to(dtype)

    def fill(part: Path) -> None:
        merged.save_pretrained(part)
        load_tokenizer(base_folder).save_pretrained(part)

    write_folder(out_folder, fill)
    return out_folder


def _peft_config(lora: LoraSpec, num_layers: int) -> LoraConfig:
    layers = sorted(adapted_layers(lora, num_layers))
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        layers_to_transform=None if len(layers) == num_layers else layers,
        use_rslora=lora.use_rslora,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _public_name(parameter_name: str) -> str:
    # base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight
    name = parameter_name.removeprefix("base_model.model.")
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")
