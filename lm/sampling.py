"""The seam through which text is sampled: token ids in, seeded completions out.

A stage asks for a `Sampler` and does not know which engine serves it. All engines give the same
meaning to the same parameters: repetition penalty over prefix and completion, then temperature,
then the *exact* smallest set of tokens whose probability reaches `top_p`, then a draw from it.

What a seed promises: the same engine, model, prefixes, parameters and thread count give the same
completions again. Each prefix draws from random numbers of its own (see `prefix_seeds`). Its logits
may still differ in their last bits with the batch that it shares, and then a draw can fall to
another token. Engines share the meaning of a
distribution, not the draws: greedy completions agree between them, sampled ones do not.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

from lm.devices import best_device
from lm.encoding import end_of_turn_ids
from lm.errors import SamplingError
from lm.model_folders import check_model_folder

__all__ = [
    "Completion",
    "Progress",
    "SampledModel",
    "Sampler",
    "SamplingEngine",
    "SamplingParams",
    "check_engine",
    "check_prefixes",
    "open_sampler",
    "prefix_seeds",
    "stop_token_ids",
]

_LOGGER = logging.getLogger(__name__)
# Control tokens of the common chat formats: a model that writes one has ended its turn.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>")

Progress = Callable[[int, int], None]
"""Called with the number of completions that are done and the number asked for."""


class SamplingEngine(StrEnum):
    """What computes the completions."""

    OPENVINO = "openvino"
    """OpenVINO GenAI: Llama and Qwen architectures, on a CPU."""
    TRANSFORMERS = "transformers"
    """The project's own loop over a transformers model: everywhere."""
    VLLM = "vllm"
    """A vLLM server over its HTTP API: for large models on accelerators; never chosen by `auto`."""
    AUTO = "auto"
    """OpenVINO where it can serve the model on this device, otherwise transformers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How completions are drawn."""

    max_new_tokens: int
    """Tokens at which a completion is cut; then it counts as unfinished."""
    num_candidates: int = 1
    """Completions for each prefix."""
    temperature: float = 1.0
    """Divides the logits; in [10^-6, 10^6]."""
    top_p: float = 0.7
    """Probability that the smallest set of likeliest tokens must reach, in (0, 1]."""
    repetition_penalty: float = 1.0
    """Weakens the logits of tokens that the prefix or the completion already has; 1 is none."""
    greedy: bool = False
    """Take the likeliest token always; temperature, top_p and seed then have no effect."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SamplingError: A value lies outside its range.
        """
        for name in ("max_new_tokens", "num_candidates"):
            if getattr(self, name) < 1:
                raise _out_of_range(name, "at least 1", getattr(self, name))
        # Logits that are divided by next to nothing are infinite, and have no distribution.
        if not 1e-6 <= self.temperature <= 1e6:
            hint = "Set greedy=True to take the likeliest token."
            raise _out_of_range("temperature", "in [10^-6, 10^6]", self.temperature, hint)
        if not 0 < self.top_p <= 1:
            raise _out_of_range("top_p", "in (0, 1]", self.top_p)
        if not 1e-6 <= self.repetition_penalty <= 1e6:
            limits = "in [10^-6, 10^6]"
            raise _out_of_range("repetition_penalty", limits, self.repetition_penalty)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One continuation of a prefix."""

    token_ids: tuple[int, ...]
    """Ids of the continuation, without the token that ended it."""
    text: str
    """The same as text, without control tokens; whitespace is kept as it was written."""
    is_finished: bool
    """Whether the model ended it; False where `max_new_tokens` cut it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledModel:
    """A model with or without an adapter, as whichever engine needs it."""

    base_folder: Path
    """The model without adapter."""
    write_merged: Callable[[], Path] | None = None
    """Writes the model with its adapter merged, or finds it whole; None where there is none."""
    write_adapter: Callable[[], Path] | None = None
    """Writes the adapter as a PEFT folder, or finds it whole; None where there is none."""
    vllm_url: str | None = None
    """Address of a vLLM server that holds the base model."""


class Sampler(Protocol):
    """An engine with one model loaded."""

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample continuations.

        Args:
            prefixes: Token ids to continue, at least one each. A prefix that occurs twice gets
                different completions.
            params: How to draw.
            seed: Any integer; the same one gives the same completions.
            salts: What tells a prefix from others that say the same; see `prefix_seeds`.
            on_progress: Called with completions done and completions asked for.

        Returns:
            `num_candidates` completions for each prefix, in the order of the prefixes. Where the
            model gives no distribution, because a number in it is none, a completion ends
            unfinished, or goes on with any token; the call does not fail for it.

        Raises:
            SamplingError: A prefix is empty or too long, or the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the model. The sampler cannot be used afterwards."""
        ...


def open_sampler(
    model: Path | SampledModel,
    *,
    engine: SamplingEngine = SamplingEngine.AUTO,
    num_threads: int | None = None,
    cache_folder: Path | None = None,
    device: str | None = None,
) -> Sampler:
    """Load a model into an engine.

    Args:
        model: A checked model folder, or a model with an adapter; the engine `vllm` loads an
            adapter as it is, the others read a model into which it is merged.
        engine: Which engine, or `auto`.
        num_threads: CPU threads for sampling; None leaves it to the engine.
        cache_folder: Where an engine keeps a converted model, by digest of the model's files;
            None takes the user's cache folder.
        device: A torch device; None takes an accelerator where there is one.

    Returns:
        The sampler; the caller closes it.

    Raises:
        ModelFolderError: The folder holds no usable model.
        SamplingError: The engine is not installed, or cannot serve this model on this device.
    """
    if isinstance(model, Path):
        model = SampledModel(base_folder=model)
    if engine is SamplingEngine.VLLM:
        return _open_vllm(model)
    model_folder = model.base_folder if model.write_merged is None else model.write_merged()
    check_model_folder(model_folder)
    device = device or best_device()
    match engine:
        case SamplingEngine.AUTO:
            chosen, reason = _choose_engine(model_folder, device)
            _LOGGER.info("Sampling with %s: %s.", chosen.value, reason)
        case _:
            chosen = engine
            check_engine(model_folder, engine=engine, device=device)
    # Each engine is imported where it is chosen: the other one's library may be absent.
    if chosen is SamplingEngine.OPENVINO:
        from lm.sampling_openvino import OpenVinoSampler

        return OpenVinoSampler.open(
            model_folder, num_threads=num_threads, cache_folder=cache_folder
        )
    from lm.sampling_transformers import TransformersSampler

    return TransformersSampler.open(model_folder, num_threads=num_threads, device=device)


def check_engine(model_folder: Path, *, engine: SamplingEngine, device: str | None = None) -> None:
    """Refuse an engine that cannot serve a model here; loads no model.

    Args:
        model_folder: The model, or one of its architecture.
        engine: The engine that was asked for.
        device: A torch device; None takes an accelerator where there is one.

    Raises:
        SamplingError: It is not installed, or cannot serve this model on this device.
    """
    if engine is not SamplingEngine.OPENVINO:
        return
    if obstacle := _openvino_obstacle(model_folder, device or best_device()):
        raise SamplingError(
            f"Expected a model, device and installation that engine=openvino can serve, but "
            f"{obstacle}. Use engine=transformers, or engine=auto."
        )


def stop_token_ids(model_folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every id that ends a completion.

    These are the end-of-text ids of the generation settings, the model's config and the
    tokenizer, what ends a turn in the chat template, and the common end tokens that the
    tokenizer knows.

    Args:
        model_folder: Folder of the model; a settings file that it lacks adds nothing.
        tokenizer: The model's tokenizer, with a chat template.

    Returns:
        Token ids, at least one.

    Raises:
        ModelFolderError: The chat template rewrites or drops a turn.
    """
    ids = set(end_of_turn_ids(tokenizer))
    for file_name in ("generation_config.json", "config.json"):
        file = model_folder / file_name
        if file.is_file():
            value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
    vocabulary = tokenizer.get_vocab()
    ids.update(vocabulary[token] for token in _END_TOKENS if token in vocabulary)
    return frozenset(ids)


def prefix_seeds(
    prefixes: Sequence[Sequence[int]], seed: int, salts: Sequence[str] | None = None
) -> list[int]:
    """Derive a seed for each prefix from what it says and from its salt.

    So a prefix draws the same random numbers whatever else is in the call. Without salts, how often
    it occurred before takes their place: a prefix that is given twice does not get the same
    completions twice, but what it gets then depends on who else gave it.

    Args:
        prefixes: Token ids to continue.
        seed: Any integer.
        salts: One a prefix; the same prefix with the same salt gets the same seed.

    Returns:
        One integer in [0, 2**63) for each prefix.
    """
    occurrences: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for index, prefix in enumerate(prefixes):
        key = tuple(prefix)
        # Privacy: with salts, no other prefix of the call has a say in these random numbers.
        salt = occurrences[key] if salts is None else salts[index]
        text = f"{seed}/{salt}/{','.join(map(str, key))}"
        occurrences[key] += 1
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest, "big") >> 1)
    return seeds


def check_prefixes(
    prefixes: Sequence[Sequence[int]], params: SamplingParams, *, max_positions: int
) -> None:
    """Check that every prefix can be continued, before any of them is.

    Args:
        prefixes: Token ids to continue.
        params: How to draw.
        max_positions: Tokens that the model can hold.

    Raises:
        SamplingError: A prefix is empty, or too long with what is to follow it.
    """
    for index, prefix in enumerate(prefixes):
        if not 0 < len(prefix) <= max_positions - params.max_new_tokens:
            raise SamplingError(
                f"Expected prefixes of 1 to {max_positions - params.max_new_tokens} tokens (the "
                f"model holds {max_positions}, max_new_tokens={params.max_new_tokens}), found "
                f"{len(prefix)} tokens at position {index}. Shorten the prompt, or lower "
                "max_new_tokens."
            )


def _open_vllm(model: SampledModel) -> Sampler:
    from lm.sampling_vllm import VllmSampler, VllmServer

    if model.vllm_url is None:
        raise SamplingError(
            f"Expected the address of a vLLM server that holds the model of {model.base_folder} "
            "because engine=vllm, found none. Name it, or use engine=auto."
        )
    return VllmSampler.open(
        model.base_folder,
        server=VllmServer(url=model.vllm_url),
        adapter_folder=None if model.write_adapter is None else model.write_adapter(),
    )


def _choose_engine(model_folder: Path, device: str) -> tuple[SamplingEngine, str]:
    if obstacle := _openvino_obstacle(model_folder, device):
        return SamplingEngine.TRANSFORMERS, obstacle
    return SamplingEngine.OPENVINO, "it is installed and knows the architecture"


def _openvino_obstacle(model_folder: Path, device: str) -> str | None:
    if torch.device(device).type != "cpu":
        return f"OpenVINO serves a CPU and the device is {device!r}"
    try:
        from lm import sampling_openvino  # noqa: F401 - whether it imports is the question
        from lm.gguf_writer import unsupported_reason
    except ImportError as error:
        return f"OpenVINO cannot be imported ({error})"
    return unsupported_reason(model_folder)


def _out_of_range(name: str, expected: str, found: float, hint: str = "") -> SamplingError:
    ending = f" {hint}" if hint else f" Choose another {name}."
    return SamplingError(f"Expected {name} {expected}, got {name}={found}.{ending}")
