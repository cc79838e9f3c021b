"""Schemas for `conf/server_side/`: everything that the server's operator decides.

Each group `conf/server_side/<module>/` fills `<Module>Config`; a stage takes its own config and no
other. Values are checked when a dataclass is made, before any model is loaded.

`lm/settings.py` turns composed values into these dataclasses. Choices are plain text checked
against the enum that names them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from server_side.setting_checks import (
    require,
    require_choice,
    require_counts,
    require_fractions,
    require_positive,
    require_vllm_url,
)


class FeedbackWriter(StrEnum):
    """Which model compares `chosen` with `rejected` before a rewrite."""

    GENERATOR = "generator"
    """The generator proxy of the query's client, as published."""
    TARGET = "target"
    """The current target model."""
    NONE = "none"
    """Nobody: a fixed sentence asks for a better answer."""


_METHODS = ("lora",)
_OBJECTIVES = ("sft",)
_DTYPES = ("float32", "bfloat16")
_SCHEDULES = ("constant_with_warmup", "linear", "cosine")
_REPORTERS = ("none", "tensorboard")
_ENGINES = ("auto", "openvino", "transformers", "vllm")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How completions are drawn from a model."""

    max_new_tokens: int = 96
    """Tokens at which a completion is cut; it then counts as unfinished."""
    temperature: float = 1.0
    """Divides the logits."""
    top_p: float = 0.7
    """Probability that the smallest set of likeliest tokens must reach."""
    repetition_penalty: float = 1.0
    """Weakens tokens that occurred before; 1 is none."""

    def __post_init__(self) -> None:
        require_counts("sampling", self, "max_new_tokens")
        require_positive("sampling", self, "temperature", "repetition_penalty")
        require(0 < self.top_p <= 1, "sampling.top_p", "0 < top_p <= 1", self.top_p)


@dataclass(frozen=True, kw_only=True)
class AdmissionConfig:
    """Which releases may be used."""

    max_epsilon: float = 8.0
    """Largest composed ε of a client that is accepted."""
    max_delta: float = 1e-5
    """Largest δ that is accepted."""
    allowed_public_keys: list[str] | None = None
    """Hexadecimal Ed25519 keys of the clients that may take part; None admits any key."""
    allowed_code_digests: list[str] | None = None
    """Digests of the client code that releases may come from; None admits any."""
    accept_reproducible_noise: bool = False
    """Admit noise drawn from a fixed seed: tests and simulations only, it protects nobody."""
    accept_unsafe_non_private: bool = False
    """Admit releases of infinite ε: baselines on public or fictional records only."""
    max_release_bytes: int = 256 * 1024 * 1024
    """Largest release that is read at all."""

    def __post_init__(self) -> None:
        require_positive("admission", self, "max_epsilon")
        require(0 < self.max_delta < 1, "admission.max_delta", "0 < δ < 1", self.max_delta)
        require_counts("admission", self, "max_release_bytes")


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Stages 7 and 8: prompts from the generators, and responses to them."""

    num_queries: int = 2994
    """Prompts to keep in all, over all clients."""
    num_candidates: int = 6
    """Responses to each prompt."""
    client_weights: dict[str, float] | None = None
    """Share of the prompts that each client's generator writes; None gives all the same."""
    prompt_sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(max_new_tokens=64)
    )
    """How prompts are drawn."""
    response_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How responses are drawn."""
    min_prompt_words: int = 4
    """A shorter prompt falls."""
    max_prompt_words: int = 120
    """A longer prompt falls."""
    min_response_words: int = 3
    """A shorter response falls."""
    max_attempts_factor: float = 4.0
    """Prompts sampled ÷ prompts wanted at which asking again ends."""
    engine: str = "auto"
    """Sampling engine: auto, openvino, transformers or vllm."""

    def __post_init__(self) -> None:
        require_counts("synthesis", self, "num_queries", "min_prompt_words", "min_response_words")
        require(
            self.num_candidates >= 2,
            "synthesis.num_candidates",
            "a whole number >= 2, because filtering compares the responses to one prompt",
            self.num_candidates,
        )
        require(
            self.max_prompt_words >= self.min_prompt_words,
            "synthesis.max_prompt_words",
            f">= synthesis.min_prompt_words={self.min_prompt_words}",
            self.max_prompt_words,
        )
        require(
            math.isfinite(self.max_attempts_factor) and self.max_attempts_factor >= 1,
            "synthesis.max_attempts_factor",
            "a number >= 1",
            self.max_attempts_factor,
        )
        require_choice("synthesis.engine", self.engine, _ENGINES)
        weights = self.client_weights
        if weights is not None:
            are_weights = all(math.isfinite(w) and w >= 0 for w in weights.values())
            require(
                are_weights and sum(weights.values()) > 0,
                "synthesis.client_weights",
                "weights >= 0 by client name, not all zero",
                weights,
            )


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Stage 9: reward under every client's reward proxy, perplexity under the generator."""

    max_batch_tokens: int = 4096
    """Tokens, padding included, that go through a model at once."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut before it is scored."""
    max_response_tokens: int = 256
    """A longer response is cut before it is scored."""

    def __post_init__(self) -> None:
        require_counts(
            "scoring", self, "max_batch_tokens", "max_prompt_tokens", "max_response_tokens"
        )


@dataclass(frozen=True, kw_only=True)
class FilteringConfig:
    """Stage 10: the best and the worst response to a query, and the best of the queries."""

    alpha: float = 0.5
    """Weight of the reward's rank within a query; that of likelihood is one minus it."""
    consensus_weight: float = 0.0
    """Weight of the rank of mean ROUGE-L to the query's other responses; 0 as published."""
    k: float = 8.0
    """The best 1/k of the queries, by reward of `chosen`, make the first pool."""
    min_pool_size: int = 1
    """The first pool has at least so many samples, if there are so many."""

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "filtering.alpha", "a fraction in [0, 1]", self.alpha)
        require(
            math.isfinite(self.consensus_weight) and self.consensus_weight >= 0,
            "filtering.consensus_weight",
            "a finite number >= 0",
            self.consensus_weight,
        )
        require(math.isfinite(self.k) and self.k >= 1, "filtering.k", "a number >= 1", self.k)
        require_counts("filtering", self, "min_pool_size")


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """Stage 12: feedback, rewriting by the current target, and judging again."""

    num_rounds: int = 3
    """Rounds in all, the first one included; 1 leaves refinement out."""
    num_candidates: int = 6
    """Rewrites of each response."""
    max_queries: int | None = None
    """Queries that are rewritten in a round, those with the best reward first; None takes all."""
    feedback_writer: str = "generator"
    """Which model writes the feedback: generator, target or none."""
    feedback_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How feedback is drawn."""
    rewrite_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How rewrites are drawn."""
    min_response_words: int = 3
    """A shorter rewrite falls."""
    engine: str = "auto"
    """Sampling engine: auto, openvino, transformers or vllm."""

    def __post_init__(self) -> None:
        require_counts("refinement", self, "num_rounds", "num_candidates", "min_response_words")
        if self.max_queries is not None:
            require_counts("refinement", self, "max_queries")
        require_choice("refinement.feedback_writer", self.feedback_writer, FeedbackWriter)
        require_choice("refinement.engine", self.engine, _ENGINES)


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """Stage 11: tuning of the target model on the pool."""

    method: str = "lora"
    """Which weights are tuned: lora."""
    objective: str = "sft"
    """What they are tuned for: sft."""
    lora_rank: int = 16
    """Rank of the adapter."""
    lora_alpha: float = 32.0
    """Scale numerator of the adapter."""
    lora_dropout: float = 0.0
    """Share of the adapter's inputs that are dropped in training."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ]
    )  # fmt: skip
    """Names of the linear layers that get an update."""
    num_upper_layers: int | None = None
    """Blocks that get an update, counted from the last; None updates all."""
    learning_rate: float = 4e-5
    """Peak step size."""
    schedule: str = "linear"
    """How the step size falls after its peak: constant_with_warmup, linear or cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the step size rises from zero."""
    weight_decay: float = 0.0
    """Decay of the adapter's weights."""
    max_grad_norm: float = 1.0
    """L2 bound on the gradient of a step; against outliers, not for privacy."""
    num_epochs: int = 3
    """Passes over the pool in each round."""
    batch_size: int = 64
    """Samples in an optimiser step."""
    max_physical_batch_size: int = 8
    """Samples that go through the model at once."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut."""
    max_response_tokens: int = 256
    """A longer response is cut."""
    num_processes: int = 1
    """Processes among which each batch is split, one for each accelerator."""
    checkpoint_steps: int = 20
    """Optimiser steps between checkpoints, from which a killed tuning goes on."""
    dtype: str = "float32"
    """In what the frozen base weights are held: float32 or bfloat16."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    report_to: str = "none"
    """Where training curves go: none, or tensorboard for event files in the run folder."""

    def __post_init__(self) -> None:
        require_choice("finetuning.method", self.method, _METHODS)
        require_choice("finetuning.schedule", self.schedule, _SCHEDULES)
        require_choice("finetuning.report_to", self.report_to, _REPORTERS)
        require_choice("finetuning.objective", self.objective, _OBJECTIVES)
        require_choice("finetuning.dtype", self.dtype, _DTYPES)
        require_counts(
            "finetuning", self, "lora_rank", "num_epochs", "batch_size", "max_physical_batch_size",
            "max_prompt_tokens", "max_response_tokens", "checkpoint_steps", "num_processes",
        )  # fmt: skip
        is_divided = self.batch_size % self.num_processes == 0
        require(
            is_divided,
            "finetuning.num_processes",
            "a divisor of its batch_size",
            self.num_processes,
        )
        if self.num_upper_layers is not None:
            require_counts("finetuning", self, "num_upper_layers")
        require_positive("finetuning", self, "lora_alpha", "learning_rate", "max_grad_norm")
        require_fractions("finetuning", self, "lora_dropout", "warmup_fraction", "weight_decay")
        require(bool(self.target_modules), "finetuning.target_modules", "at least one name", "none")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(SamplingConfig):
    """Stage 13: the target before and after, on public test records."""

    path: str | None = None
    """JSON lines, CSV or parquet file with public test records, or a `datasets` name."""
    split: str | None = None
    """Split of a `datasets` name."""
    prompt_column: str | None = None
    """Column with the prompt; None infers it from known names."""
    response_column: str | None = None
    """Column with the reference response; None infers it from known names."""
    instruction: str | None = None
    """System turn of the test; None takes the first client's instruction."""
    max_rows: int | None = None
    """Rows to judge, the first ones; None takes all."""
    samples_per_prompt: int = 1
    """Answers to each prompt, whose metrics are averaged; the same decoding for every arm."""
    repetition_penalty: float = 1.1
    """Weakens tokens that occurred before; 1 is none."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut."""
    max_reference_tokens: int = 256
    """A longer reference is cut before its perplexity is taken."""
    max_batch_tokens: int = 4096
    """Tokens, padding included, that go through the model at once."""
    dtype: str = "bfloat16"
    """In what the target's weights are held: float32 or bfloat16."""
    num_resamples: int = 2000
    """Bootstrap resamples behind an interval."""
    confidence_level: float = 0.95
    """Share of resamples that an interval covers."""
    engine: str = "auto"
    """Sampling engine: auto, openvino, transformers or vllm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(
            "evaluation",
            self,
            "samples_per_prompt",
            "max_prompt_tokens",
            "max_reference_tokens",
            "max_batch_tokens",
            "num_resamples",
        )
        if self.max_rows is not None:
            require_counts("evaluation", self, "max_rows")
        require_choice("evaluation.dtype", self.dtype, _DTYPES)
        level = self.confidence_level
        require(0 < level < 1, "evaluation.confidence_level", "0 < value < 1", level)
        require_choice("evaluation.engine", self.engine, _ENGINES)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One server: its models and its own settings for every room."""

    base_model: str = "smollm2-135m"
    """Base of both proxies, the same as the clients': a folder, a hub name, `smollm2-135m`."""
    target_model: str = "smollm2-135m"
    """Model to be tuned: a folder, a hub name, or `smollm2-135m`."""
    num_threads: int | None = None
    """CPU threads for sampling, scoring and tuning; None leaves it to the libraries."""
    base_model_vllm_url: str | None = None
    """Address of a vLLM server that holds the base model, for stages with `engine: vllm`."""
    target_model_vllm_url: str | None = None
    """Address of a vLLM server that holds the target model, for stages with `engine: vllm`."""
    seed: int = 0
    """Seed of everything that the server draws; it protects nothing."""
    min_clients: int = 1
    """Clients of which both releases must be admitted before the server goes on."""
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    """Which releases may be used."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """Prompts and responses."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    """Rewards and perplexities."""
    filtering: FilteringConfig = field(default_factory=FilteringConfig)
    """What is kept."""
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    """Rounds of rewriting."""
    finetuning: FinetuningConfig = field(default_factory=FinetuningConfig)
    """Tuning of the target."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Judgement of the target."""

    def __post_init__(self) -> None:
        for name in ("base_model", "target_model"):
            require(bool(getattr(self, name)), f"server_side.{name}", "a model", "nothing")
        if self.num_threads is not None:
            require_counts("server_side", self, "num_threads")
        require_counts("server_side", self, "min_clients")
        refines = self.refinement.engine == "vllm" and self.refinement.num_rounds > 1
        advises = refines and self.refinement.feedback_writer == FeedbackWriter.GENERATOR
        asks_base = self.synthesis.engine == "vllm" or advises
        asks_target = self.evaluation.engine == "vllm" or refines
        require_vllm_url("base_model_vllm_url", self.base_model_vllm_url, is_needed=asks_base)
        require_vllm_url("target_model_vllm_url", self.target_model_vllm_url, is_needed=asks_target)
        require(0 <= self.seed < 2**63, "server_side.seed", "0 <= seed < 2**63", self.seed)
