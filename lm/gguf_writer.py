"""Write a model folder as one GGUF file, the form in which OpenVINO GenAI reads a checkpoint.

Weights become 16-bit floats (exact for bfloat16 weights of usual size), norms and biases stay
32-bit. The file is made once and kept in a cache under the digest of the model's files, so two
folders with the same contents share it; it is written aside and renamed when whole.

The vocabulary in the file is a row of placeholders: this project feeds token ids and reads token
ids, so that a tokenizer needs no translation and cannot be translated wrongly.

Reference: GGUF specification, version 3, with the tensor names of llama.cpp.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGUFWriter, LlamaFileType, TokenType
from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from lm.errors import SamplingError
from lm.model_folders import base_model_digest, default_cache_folder

# A change in what is written makes a new file, so an old one is never taken for a new one.
_FORMAT = "v1"
_ARCHITECTURES = ("llama", "qwen2")
_GLOBAL_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LARGEST_HALF = 65504.0


def unsupported_reason(model_folder: Path) -> str | None:
    """Say why a model cannot be written, or return None where it can.

    Args:
        model_folder: Folder of the model; only its config is read.
    """
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=False)
    if config.model_type not in _ARCHITECTURES:
        return f"it knows {' and '.join(_ARCHITECTURES)} and the model is {config.model_type!r}"
    head_width = getattr(config, "head_dim", None) or 0
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    obstacles = {
        f"its rotary embedding is {rope_type!r}": rope_type != "default",
        "its heads do not add up to its width": head_width
        and head_width * config.num_attention_heads != config.hidden_size,
        "it has biases that Llama lacks": getattr(config, "attention_bias", False)
        or getattr(config, "mlp_bias", False),
        "its attention is windowed": getattr(config, "use_sliding_window", False),
        f"its activation is {config.hidden_act!r}": config.hidden_act != "silu",
        "it is quantised": getattr(config, "quantization_config", None) is not None,
    }
    found = [obstacle for obstacle, holds in obstacles.items() if holds]
    return f"{found[0]}, which it does not know" if found else None


def cached_gguf(
    model_folder: Path, *, stop_ids: frozenset[int], cache_folder: Path | None = None
) -> Path:
    """Return the GGUF file of a model, writing it where the cache lacks it.

    Args:
        model_folder: Folder of a model for which `unsupported_reason` is None.
        stop_ids: Ids that end a completion; they are marked as control tokens.
        cache_folder: Where files are kept; None takes the user's cache folder.

    Returns:
        The file.

    Raises:
        SamplingError: A weight does not fit, or the cache cannot be written.
    """
    folder = (cache_folder or default_cache_folder()) / "gguf"
    file = folder / f"{base_model_digest(model_folder)}-{_FORMAT}.gguf"
    if file.is_file():
        # It gets this name only when whole, by a rename.
        return file
    part: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=".gguf", dir=folder)
        os.close(handle)
        part = Path(name)
        write_gguf(model_folder, file=part, stop_ids=stop_ids)
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(file)
    except OSError as error:
        raise SamplingError(
            f"Expected to write a converted model to {folder}, got {error.strerror}. Make "
            "room or let it be written, or name another folder in REWARDDS_CACHE."
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return file


def write_gguf(model_folder: Path, *, file: Path, stop_ids: frozenset[int]) -> None:
    """Write a model folder as a GGUF file, one tensor in memory at a time.

    Args:
        model_folder: Folder of a model for which `unsupported_reason` is None.
        file: Where to write.
        stop_ids: Ids that end a completion.

    Raises:
        SamplingError: A weight does not fit into 16 bits.
    """
    config = AutoConfig.from_pretrained(model_folder, trust_remote_code=False)
    writer = GGUFWriter(str(file), config.model_type)
    try:
        _add_shape(writer, config)
        _add_placeholder_vocabulary(writer, config, stop_ids)
        # All descriptions stand before all data, so the weights are read twice.
        for name, weights in _tensors(model_folder, config):
            writer.add_tensor_info(name, weights.shape, weights.dtype, weights.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, weights in _tensors(model_folder, config):
            writer.write_tensor_data(weights)
    finally:
        writer.close()


def _add_shape(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _add_placeholder_vocabulary(
    writer: GGUFWriter, config: PretrainedConfig, stop_ids: frozenset[int]
) -> None:
    size = config.vocab_size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([f"t{index}" for index in range(size)])
    # Without a single control token the reader builds a tokenizer that it cannot compile.
    kinds = [TokenType.CONTROL if i in stop_ids else TokenType.NORMAL for i in range(size)]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(min(stop_ids))
    writer.add_bos_token_id(min(stop_ids))
    writer.add_pad_token_id(min(stop_ids))


def _tensors(
    folder: Path, config: PretrainedConfig
) -> Iterator[tuple[str, npt.NDArray[np.float16] | npt.NDArray[np.float32]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                if name == "lm_head.weight" and config.tie_word_embeddings:
                    continue
                if name.endswith("rotary_emb.inv_freq"):  # it follows from the settings
                    continue
                yield _gguf_name(name), _stored(name, file.get_tensor(name), config)


def _gguf_name(name: str) -> str:
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name]
    # model.layers.0.self_attn.q_proj.weight
    _, _, layer, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{_LAYER_NAMES[module]}.{kind}"


def _stored(
    name: str, weights: torch.Tensor, config: PretrainedConfig
) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    values = weights.float()
    if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
        is_query = ".q_proj." in name
        values = _interleaved(
            values, config.num_attention_heads if is_query else config.num_key_value_heads
        )
    if values.ndim == 1:
        return values.contiguous().numpy()
    if not float(values.abs().max()) <= _LARGEST_HALF:  # which holds of NaN, too
        raise SamplingError(
            f"Expected weights of at most {_LARGEST_HALF:.0f} in {name}, found a larger one or "
            "what is no number. Use engine=transformers, or download the model again."
        )
    return values.half().contiguous().numpy()


def _interleaved(values: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorder the rows of a Llama projection from half-and-half to even-and-odd rotary pairs."""
    pairs = values.reshape(num_heads, 2, len(values) // num_heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
