"""Which models this project handles rightly; any other is refused by what sets it apart.

It is asked before a client pays or a server waits for one that did. All of it follows from settings
and from the headers of files: no weight is read.

Covers:
    - settings that stand elsewhere, or have other names, than adapters and samplers look for;
    - layers that are no attention, and attention that takes no mask of truth values;
    - weights that are stored quantised;
    - logits that are more than a product of the last state and the head, by the settings that say
      so in the architectures that transformers has, and by a bias of the head;
    - weights and files of weights that are absent, or have another shape.
Does not cover:
    - what an architecture computes inside its layers;
    - whether the weights mean anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import PretrainedConfig, PreTrainedModel

from lm.errors import ModelFolderError

_NUMBERS: Final = ("num_hidden_layers", "hidden_size", "max_position_embeddings")
_ATTENTION: Final = frozenset({"full_attention", "sliding_attention"})
_OF_LOGITS: Final = (
    "logits_scaling",
    "logit_scale",
    "final_logit_softcapping",
    "softcap",
    "lm_head_multiplier",
    "output_multiplier",
)
"""What architectures change their logits by; `lm.likelihood` takes them as they leave the head."""


def check_config(folder: Path, config: PretrainedConfig) -> None:
    """Refuse a model by its settings.

    Args:
        folder: Folder of the model.
        config: The same settings as transformers understands them.

    Raises:
        ModelFolderError: They say that the model is not handled rightly here.
    """
    # Adapters are laid out by the file itself, where an architecture may use names of its own.
    stated: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in _NUMBERS:
        # What every model of an architecture has alike may be left out; depth and width are not.
        value = stated.get(name, getattr(config, name, None) if name == _NUMBERS[-1] else None)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ModelFolderError(
                f"Expected {', '.join(_NUMBERS)} as whole numbers at the top of config.json in "
                f"{folder}, found {name}={value!r}. Take a model of text alone that names them so, "
                "such as a Llama or a Qwen."
            )
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION):
        raise ModelFolderError(
            f"Expected a model whose layers are {' or '.join(sorted(_ATTENTION))} in {folder}, "
            f"found layer_types with {', '.join(others)}. Take a model without such layers."
        )
    if stated.get("quantization_config") is not None:
        raise ModelFolderError(
            f"Expected full weights in {folder}, found a quantization_config in its config.json. "
            "Take the model that it was made from; QLoRA quantises by itself."
        )
    for name in _OF_LOGITS:
        value = getattr(config, name, None)
        if value not in (None, 1):
            raise ModelFolderError(
                f"Expected a model whose logits are its head's, unchanged, in {folder}, found "
                f"{name}={value}, which likelihoods here would leave out. Take another model."
            )


def check_head(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a model whose logits are more than a product of states and weights.

    Args:
        folder: Folder of the model.
        model: The model; weights are not looked at, and may have no memory.

    Raises:
        ModelFolderError: Its head has a bias.
    """
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ModelFolderError(
            f"Expected an output head without bias in {folder}, found one with it, which "
            "likelihoods here would leave out. Take another model."
        )


def check_attention(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a model that would add the masks of packed and padded texts to its scores.

    Args:
        folder: Folder of the model.
        model: The model; weights are not looked at, and may have no memory.

    Raises:
        ModelFolderError: It knows none but the eager implementation of attention.
    """
    # That one adds a mask to the scores: of truth values it makes 0 and 1, and masks nothing.
    if model.config._attn_implementation == "eager":
        raise ModelFolderError(
            f"Expected a model with PyTorch's scaled dot product attention in {folder}, found that "
            f"{model.config.model_type} has none in this version of transformers. Take another "
            "model."
        )


def check_weights(folder: Path, model: PreTrainedModel) -> None:
    """Refuse files that lack weights, for which random ones would be taken without a word.

    Args:
        folder: Folder of the model.
        model: A model of the same settings, without memory for weights.

    Raises:
        ModelFolderError: A file or a weight is absent, or has another shape than the model says.
    """
    shapes: dict[str, torch.Tensor] = {}
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                shape = file.get_slice(name).get_shape()
                shapes[name] = torch.empty(shape, device="meta")
    # The library itself pairs names up, tied weights and names of older versions included.
    kind: Any = type(model)
    _, found = kind.from_pretrained(
        None,
        config=model.config,
        state_dict=shapes,
        device_map="meta",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise ModelFolderError(
            f"Expected all weights of the model in {folder}, found {len(wrong)} that are absent or "
            f"of another shape than its config.json says, such as {wrong[0]}. Save or download the "
            "model again."
        )


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads; others may lie beside them."""
    whole = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        files = [whole]
    else:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(named))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ModelFolderError(
            f"Expected {', '.join(absent)} in {folder}, which hold weights of the model, found "
            "none. Download the model again, or save it with save_pretrained."
        )
    return files
