"""How many tokens a model takes, and whether the longest text of a training fits.

By settings alone: a model's configuration and a tokenizer are read, and no weight is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import AutoConfig, PretrainedConfig

from lm.encoding import encode_chat
from lm.errors import ModelFolderError
from lm.loading import load_tokenizer

# Beyond the window that they were trained for, these scale all positions of a batch by its longest
# text; others scale every text alike.
_BY_LONGEST: Final = frozenset({"dynamic", "longrope"})
_SPARE_TOKENS: Final = 8
"""Where two texts meet, a tokenizer may make a few tokens more than of either."""


def max_positions(config: PretrainedConfig) -> int:
    """Return how many tokens samplers give a model at most.

    Args:
        config: The model's configuration.

    Returns:
        What its positions hold; its window, if less, where a layer sees no further.
    """
    return min(_limits(config).values())


def check_context(
    folder: Path, *, instruction: str, max_prompt_tokens: int, max_response_tokens: int
) -> None:
    """Refuse lengths at which a text would not fit, or would change others beside it.

    Args:
        folder: Folder of the model.
        instruction: Text of the system turn.
        max_prompt_tokens: What a prompt is cut to.
        max_response_tokens: What a response is cut to.

    Raises:
        ModelFolderError: The longest text is longer than the model's context, or than what a
            sampler gives the model.

    Privacy:
        From public settings. A text that did not fit would fail alone, in training or where an
        answer to it is sampled, and one that rescales the positions of a batch would have a say in
        the gradients of others.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    empty = encode_chat(load_tokenizer(folder), instruction=instruction, prompt="", response="")
    longest = len(empty.input_ids) + max_prompt_tokens + max_response_tokens + _SPARE_TOKENS
    limits = _limits(config)
    name = "original_max_position_embeddings"
    for scaling in _scalings(config):
        if scaling.get("rope_type") in _BY_LONGEST:
            # The library fills in the first where a model says the second alone.
            said = (scaling.get(name), getattr(config, name, None), limits.get(name))
            if known := [int(number) for number in said if number]:
                limits[name] = min(known)
    why = min(limits, key=lambda name: limits[name])
    limit = limits[why]
    if longest > limit:
        raise ModelFolderError(
            f"Expected a text of at most {limit} tokens, which is the {why} of {folder}, found "
            f"that instruction, prompt and response may take {longest}. Lower "
            "client_side.records.max_prompt_tokens or client_side.records.max_response_tokens, "
            "shorten the instruction, or take another base model."
        )


def _limits(config: PretrainedConfig) -> dict[str, int]:
    """Return what bounds a text's tokens, by the setting that says it."""
    limits = {"max_position_embeddings": int(config.max_position_embeddings)}
    # Within its window sliding attention is full attention, which is all that our samplers compute.
    kinds = getattr(config, "layer_types", None) or []
    # Older architectures name no kinds of layers: all of them slide, unless it is switched off.
    slides = any(kind != "full_attention" for kind in kinds) or (
        not kinds and getattr(config, "use_sliding_window", True)
    )
    if slides and (window := getattr(config, "sliding_window", None)):
        limits["sliding_window"] = int(window)
    return limits


def _scalings(config: PretrainedConfig) -> list[Mapping[str, Any]]:  # JSON values
    """Return how positions are scaled: once, or by kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [found, *(part for part in found.values() if isinstance(part, dict))]
