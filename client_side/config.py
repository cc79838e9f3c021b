"""Schemas for `conf/client_side/` and for a client node's own `client_node.yaml`.

Everything here is the client operator's to decide: data, privacy unit, caps, training. What the
server sends is a request that these settings may refuse; nothing in them is ever taken from the
wire. Values are checked when a dataclass is made, before any record is read or model loaded.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from protocol.accounting import MIN_DELTA
from protocol.artifacts import MAX_INSTRUCTION_CHARS
from protocol.checks import check_text
from protocol.errors import ConfigurationError

# What `protocol.checks.check_name` lets into messages and certificates, without its dots.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Precision(StrEnum):
    """In what the frozen base weights are held; trainable weights are always float32."""

    AUTO = "auto"  # bfloat16 where the device computes in it natively, otherwise float32
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Unit(StrEnum):
    """What is protected: one record, or all records that share `group_column`."""

    RECORD = "record"
    GROUP = "group"


class Damage(StrEnum):
    """How a record's own response is made worse, for pairs that no model writes."""

    CUT = "cut"
    """It stops after a part of its words."""
    SWAP = "swap"
    """Two of its sentences change places."""
    DROP = "drop"
    """One of its sentences is missing."""
    REPEAT = "repeat"
    """One of its sentences stands twice."""


class WhenCut(StrEnum):
    """What becomes of a response that its greatest length cut, before it stands in a pair."""

    KEEP = "keep"
    """It stays as it is; that it breaks off then tells it from one that does not."""
    TRIM = "trim"
    """It ends with its last whole sentence, the record's own response too."""


@dataclass(frozen=True, kw_only=True)
class RecordsConfig:
    """Where the private records lie and what one of them may look like."""

    path: str = "clinic"
    """JSON lines, CSV or parquet file, or a `datasets` name; `clinic` is the shipped set."""
    split: str | None = None
    """Split of a `datasets` name; None where the source has only one."""
    prompt_column: str | None = None
    """Column with the prompt; None infers it from known names."""
    response_column: str | None = None
    """Column with the response; None infers it from known names."""
    group_column: str | None = None
    """Column that names the person (or other group) a record belongs to."""
    instruction: str = "Answer the message."
    """Public sentence about the domain, used as system turn; it is released as it stands."""
    declared_size: int = 1000
    """Public number of privacy units; sample rate and normaliser come from it."""
    privacy_unit: Unit = Unit.RECORD
    """What one adds or removes in the privacy claim."""
    max_records_per_unit: int = 1
    """Records of one unit that may enter training; more than 1 needs `privacy_unit: group`."""
    max_prompt_tokens: int = 80
    """A longer prompt is cut."""
    max_response_tokens: int = 100
    """A longer response is cut."""
    max_record_chars: int = 20_000
    """A longer prompt or response is an error: it is seldom what was meant."""

    def __post_init__(self) -> None:
        _require(bool(self.path), "records.path", "a path or data set name", self.path)
        _require(bool(self.instruction.strip()), "records.instruction", "a sentence", "nothing")
        # As the certificate takes it, which is made only when the training has been paid for.
        stated = {"records.instruction": self.instruction}
        check_text(max_chars=MAX_INSTRUCTION_CHARS, can_be_empty=False, **stated)
        for name in ("declared_size", "max_records_per_unit"):
            _require_positive(f"records.{name}", getattr(self, name))
        for name in ("max_prompt_tokens", "max_response_tokens", "max_record_chars"):
            _require_positive(f"records.{name}", getattr(self, name))
        if self.privacy_unit is Unit.GROUP and self.group_column is None:
            raise ConfigurationError(
                "Expected records.group_column to name the person of a record because "
                "records.privacy_unit=group, got nothing. Set records.group_column."
            )
        if self.privacy_unit is Unit.RECORD and self.max_records_per_unit != 1:
            raise ConfigurationError(
                "Expected records.max_records_per_unit=1 because records.privacy_unit=record, "
                f"got {self.max_records_per_unit}. Set records.privacy_unit=group."
            )


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """How much privacy the operator spends, now and ever."""

    target_epsilon: float = 8.0
    """Composed ε of one run's two releases."""
    target_delta: float = 1e-5
    """δ of the whole claim; below 1 / declared_size."""
    lifetime_epsilon_cap: float = 8.0
    """Composed ε of everything ever released from these records."""
    reward_noise_ratio: float = 1.0
    """Noise multiplier of the reward proxy ÷ that of the generator proxy."""
    unsafe_non_private: bool = False
    """Train without noise, at infinite ε: a baseline on public or fictional records only. A real
    node refuses it."""
    noise_seed: int | None = None
    """Fixed seed for sampling and noise: tests and simulations only, marks the ledger."""

    def __post_init__(self) -> None:
        for name in ("target_epsilon", "lifetime_epsilon_cap", "reward_noise_ratio"):
            _require_above_zero(f"budget.{name}", getattr(self, name))
        limits = f"at least {MIN_DELTA:g} and below 1"
        _require(
            MIN_DELTA <= self.target_delta < 1, "budget.target_delta", limits, self.target_delta
        )
        if self.noise_seed is not None:
            limits = "a whole number >= 0, or null"
            _require(self.noise_seed >= 0, "budget.noise_seed", limits, self.noise_seed)
        if self.lifetime_epsilon_cap < self.target_epsilon and not self.unsafe_non_private:
            raise ConfigurationError(
                "Expected budget.lifetime_epsilon_cap >= budget.target_epsilon, got "
                f"{self.lifetime_epsilon_cap:g} < {self.target_epsilon:g}. Raise the cap, which "
                "bounds everything ever released, or ask for less in one run."
            )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Shape of the trainable low-rank update of one proxy."""

    rank: int = 1
    """Rank of each update; few trainable weights keep the noise small against the signal."""
    alpha: float = 16.0
    """Scale numerator: the update is multiplied by alpha ÷ rank (or ÷ √rank)."""
    target_modules: list[str] = field(default_factory=lambda: ["v_proj"])
    """Names of the linear layers that get an update."""
    num_upper_layers: int | None = 20
    """Adapt only the last so many blocks, which saves the others' backward pass; null takes all."""
    use_rslora: bool = False
    """Scale by alpha ÷ √rank (rank-stabilised LoRA) in place of alpha ÷ rank."""
    freeze_a: bool = True
    """Train B alone: A, random and public, has no gradient at first and would only add noise."""

    def __post_init__(self) -> None:
        _require_positive("lora.rank", self.rank)
        _require_above_zero("lora.alpha", self.alpha)
        _require(bool(self.target_modules), "lora.target_modules", "at least one name", "none")
        if self.num_upper_layers is not None:
            _require_positive("lora.num_upper_layers", self.num_upper_layers)


@dataclass(frozen=True, kw_only=True)
class DpTrainingConfig:
    """What both proxies' DP-SGD runs have in common."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """Shape of the adapter."""
    steps: int = 6
    """Optimiser steps; fixed, so that no checkpoint is chosen by looking at records."""
    expected_batch_size: int = 80
    """Mean number of privacy units that Poisson sampling draws for a step."""
    max_grad_norm: float = 0.1
    """L2 bound on the gradient of one privacy unit; well below the median norm learns best."""
    learning_rate: float = 5e-2
    """Peak step size of Adam."""
    warmup_fraction: float = 0.0
    """Share of the steps in which the step size rises linearly from zero."""
    decay_to_fraction: float = 0.3
    """Step size of the last step ÷ the peak (linear decay); 1 keeps it constant."""
    adam_beta1: float = 0.9
    """Decay of Adam's first moment."""
    adam_beta2: float = 0.99
    """Decay of Adam's second moment."""
    average_last_fraction: float = 0.0
    """Release the mean of the iterates of this last share of steps; free post-processing."""
    max_batch_tokens: int = 1024
    """Tokens, padding included, that go through the model at once; a privacy unit is never divided
    and goes through alone where it has more."""
    precision: Precision = Precision.AUTO
    """In what the frozen base weights are held; auto is what is fastest on the device."""

    def __post_init__(self) -> None:
        for name in ("steps", "expected_batch_size", "max_batch_tokens"):
            _require_positive(name, getattr(self, name))
        for name in ("max_grad_norm", "learning_rate"):
            value = getattr(self, name)
            _require(0 < value <= 1e6, name, "a number in (0, 10^6]", value)
        for name in ("warmup_fraction", "decay_to_fraction", "average_last_fraction"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "a fraction in [0, 1]", value)
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, "a number in [0, 1)", value)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(DpTrainingConfig):
    """DP-SGD of the generator proxy: next-token loss on prompt and response tokens."""

    prompt_loss_weight: float = 0.3
    """Weight of the prompt's mean token loss; the response's is one minus it."""
    end_token_weight: float = 1.0
    """Weight of the token that ends a prompt or a response ÷ that of any other token. More than 1
    cost more than it brought (docs/learning.md)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            0 <= self.prompt_loss_weight <= 1,
            "generator.prompt_loss_weight",
            "a fraction in [0, 1]",
            self.prompt_loss_weight,
        )
        _require_above_zero("generator.end_token_weight", self.end_token_weight)


@dataclass(frozen=True, kw_only=True)
class RewardProxyConfig(DpTrainingConfig):
    """DP-SGD of the reward proxy: Bradley–Terry loss on the pairs of a record."""

    # A unit of pairs costs several times one of the generator's, so there are fewer of them.
    steps: int = 5
    expected_batch_size: int = 24
    learning_rate: float = 2e-2
    head_learning_rate_ratio: float = 1.0
    """Step size of the scalar head ÷ that of the adapter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name, value = "reward_proxy.head_learning_rate_ratio", self.head_learning_rate_ratio
        _require(0 < value <= 1e6, name, "a number in (0, 10^6]", value)


@dataclass(frozen=True, kw_only=True)
class PreferencesConfig:
    """Which pairs a record gives, and how their machine-written side is sampled.

    A weight of 0 leaves a kind of pair out. Weights are normalised to sum to 1 within a unit.
    """

    chosen_over_generator: float = 1.0
    """Weight of: the record's response ≻ a response of the released DP generator."""
    chosen_over_base: float = 0.0
    """Weight of: the record's response ≻ a response of the public base model."""
    generator_over_base: float = 0.0
    """Weight of: a response of the released DP generator ≻ one of the public base model."""
    chosen_over_damaged: float = 0.0
    """Weight of: the record's response ≻ the same, damaged; needs no model."""
    chosen_over_other_prompt: float = 0.0
    """Weight of: the record's response ≻ the generator's response to another, public prompt."""
    generator_over_other_prompt: float = 0.0
    """Weight of: the generator's response to the record's prompt ≻ its response to another, public
    prompt. Both have the generator's style, so what is left to learn is relevance."""
    damages: list[str] = field(default_factory=lambda: [damage.value for damage in Damage])
    """Ways of damaging, one drawn for each record: cut, swap, drop, repeat."""
    public_prompts_path: str | None = None
    """File of public prompts, never of records; None takes what the released generator writes."""
    num_public_prompts: int = 64
    """Other prompts to draw from, at most; each is answered once."""
    temperature: float = 1.0
    """Sampling temperature of the machine-written responses."""
    top_p: float = 0.9
    """Nucleus mass of the machine-written responses."""
    when_cut: str = "keep"
    """What becomes of a response that its greatest length cut: keep, or trim to its last whole
    sentence, so that the reward does not learn to see where a text breaks off."""
    engine: str = "auto"
    """Sampling engine: auto, openvino or transformers. No server over HTTP: prompts are private."""

    def __post_init__(self) -> None:
        weights = tuple(self.pair_weights.values())
        _require(
            all(math.isfinite(w) and w >= 0 for w in weights) and sum(weights) > 0,
            "preferences.*_over_*",
            "weights >= 0, not all zero",
            weights,
        )
        known = [damage.value for damage in Damage]
        _require(
            bool(self.damages) and set(self.damages) <= set(known),
            "preferences.damages",
            f"some of {', '.join(known)}",
            self.damages,
        )
        _require(
            self.num_public_prompts >= 2,
            "preferences.num_public_prompts",
            "a whole number >= 2",
            self.num_public_prompts,
        )
        limits, value = "a number in [10^-6, 10^6]", self.temperature
        _require(1e-6 <= value <= 1e6, "preferences.temperature", limits, value)
        _require(0 < self.top_p <= 1, "preferences.top_p", "0 < top_p <= 1", self.top_p)
        engines = ["auto", "openvino", "transformers"]
        choices: dict[str, list[str]] = {"when_cut": [*WhenCut], "engine": engines}
        for name, options in choices.items():
            chosen = getattr(self, name)
            _require(
                chosen in options, f"preferences.{name}", f"one of {', '.join(options)}", chosen
            )

    @property
    def pair_weights(self) -> dict[tuple[str, str], float]:
        """Weight of each kind of pair, by the better and the worse response."""
        return {
            ("own", "generator"): self.chosen_over_generator,
            ("own", "base"): self.chosen_over_base,
            ("generator", "base"): self.generator_over_base,
            ("own", "damaged"): self.chosen_over_damaged,
            ("own", "other"): self.chosen_over_other_prompt,
            ("generator", "other"): self.generator_over_other_prompt,
        }


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Whether a server may say from which public weights the proxies' training starts."""

    accept: bool = False
    """Take starting weights that a server sends; they cost no privacy and may cost quality."""
    max_bytes: int = 64 * 1024 * 1024
    """Largest request that is read at all; one without starting weights takes a few hundred."""

    def __post_init__(self) -> None:
        _require_positive("warm_start.max_bytes", self.max_bytes)


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """One client node: its name, its base model and its own settings for every part."""

    name: str = "client"
    """Public name of this client."""
    base_model: str = "smollm2-135m"
    """Small instruct model for both proxies: a folder, a hub name, or `smollm2-135m`."""
    num_threads: int | None = None
    """CPU threads for training and sampling; None takes all."""
    records: RecordsConfig = field(default_factory=RecordsConfig)
    """The private records."""
    preferences: PreferencesConfig = field(default_factory=PreferencesConfig)
    """The pairs for the reward proxy."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    """What may be spent."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Training of the generator proxy."""
    reward_proxy: RewardProxyConfig = field(default_factory=RewardProxyConfig)
    """Training of the reward proxy."""
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    """Starting weights that a server sends."""

    def __post_init__(self) -> None:
        limits = "1 to 64 of A-Z, a-z, 0-9, - and _, a letter or digit first"
        _require(bool(_NAME.fullmatch(self.name)), "client_side.name", limits, self.name)
        if self.num_threads is not None:
            limits = "a whole number from 1 to 4096"
            _require(
                1 <= self.num_threads <= 4096, "client_side.num_threads", limits, self.num_threads
            )
        for proxy in (self.generator, self.reward_proxy):
            if proxy.expected_batch_size > self.records.declared_size:
                raise ConfigurationError(
                    "Expected expected_batch_size <= records.declared_size, got "
                    f"{proxy.expected_batch_size} > {self.records.declared_size}. Lower "
                    "expected_batch_size or supply more records."
                )


def _require(is_valid: bool, name: str, expected: str, found: object) -> None:
    if not is_valid:
        raise ConfigurationError(f"Expected {name} to be {expected}, got {found!r}. Change {name}.")


def _require_positive(name: str, value: int) -> None:
    _require(value >= 1, name, "a whole number >= 1", value)


def _require_above_zero(name: str, value: float) -> None:
    _require(math.isfinite(value) and value > 0, name, "a finite number > 0", value)
