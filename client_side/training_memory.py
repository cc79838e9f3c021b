"""How much memory a training takes at most, by settings and base model alone: for `check`.

An estimate, so that an operator is told before the first request that a training would not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from client_side.config import ClientConfig
from client_side.request_checks import training_settings
from protocol.ledger import ProxyKind

_BASE_BYTES: Final = 700 * 1024**2
_ACTIVATION_FACTOR: Final = 32
"""Numbers that a token leaves in each layer, in units of the layer's width, until its gradient is
there. 29.4 were measured on SmolLM2-135M in bfloat16: 842 and 1435 MiB above the imports with
`max_batch_tokens` of 512 and 1024 (`MAX_BATCH_TOKENS` of `benchmarks/dp_step.py`, run with
`--memory-of private`)."""


def training_bytes(base: Path, config: ClientConfig, *, proxy: ProxyKind) -> int:
    """Estimate what a training holds at most: libraries, weights and activations of one batch.

    Args:
        base: Folder of the base model.
        config: The client's settings.
        proxy: Which of the two trainings.

    Returns:
        Bytes.
    """
    from lm.devices import best_device, resolve_dtype

    shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
    training = training_settings(config, proxy)
    width = resolve_dtype(training.precision, best_device()).itemsize
    layers, hidden = int(shape["num_hidden_layers"]), int(shape["hidden_size"])
    per_token = layers * hidden * _ACTIVATION_FACTOR * width + 4 * int(shape["vocab_size"])
    # A unit is never divided, however many tokens its records have.
    tokens = max(training.max_batch_tokens, _unit_tokens(base, config, proxy=proxy))
    # Loaded once as stored and once as held.
    stored = weight_bytes(base)
    held = stored * width // _stored_width(shape)
    return _BASE_BYTES + stored + held + tokens * per_token


def weight_bytes(base: Path) -> int:
    """Return the size of a base model's weights on the disk.

    Args:
        base: Folder of the base model.
    """
    return sum(file.stat().st_size for file in base.glob("*.safetensors"))


def _stored_width(shape: Mapping[str, Any]) -> int:
    """Return the bytes of a stored weight, as the base model's configuration names its dtype."""
    name = shape.get("dtype") or shape.get("torch_dtype") or "float32"
    return 2 if "16" in name else 4


def _unit_tokens(base: Path, config: ClientConfig, *, proxy: ProxyKind) -> int:
    """Return how many tokens, padding included, the largest unit can have."""
    from lm.encoding import encode_chat
    from lm.loading import load_tokenizer

    records = config.records
    empty = encode_chat(
        load_tokenizer(base), instruction=records.instruction, prompt="", response=""
    )
    num_responses = 1
    if proxy is ProxyKind.REWARD:
        # All responses that a record's pairs compare stand in one row, after one prompt.
        weights = config.preferences.pair_weights.items()
        num_responses = len({side for pair, weight in weights if weight > 0 for side in pair})
    row = len(empty.input_ids) + records.max_prompt_tokens
    row += num_responses * records.max_response_tokens
    return records.max_records_per_unit * row
