"""Settings of stage 11: tuning of the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from server_side.config.checks import (
    require,
    require_choice,
    require_counts,
    require_fractions,
    require_positive,
)
from server_side.config.choices import DTYPES

_SCHEDULES = ("constant_with_warmup", "linear", "cosine")


class Method(StrEnum):
    """Which of the target's weights are tuned."""

    LORA = "lora"
    QLORA = "qlora"
    FULL = "full"


class Objective(StrEnum):
    """What the target is tuned for."""

    SFT = "sft"
    ORPO = "orpo"
    DPO = "dpo"


class Tracker(StrEnum):
    """Who keeps the training curves."""

    NONE = "none"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """Stage 11: tuning of the target model on the pool."""

    method: str = "lora"
    """Which weights are tuned: lora (an adapter), qlora (one over a base in 4 bits) or full."""
    objective: str = "sft"
    """What they are tuned for: sft (chosen responses), orpo or dpo (chosen against rejected)."""
    preference_beta: float = 0.1
    """Weight of the odds ratio in orpo; how dear a step away from the reference is in dpo."""
    lora_rank: int = 16
    """Rank of the adapter."""
    lora_alpha: float = 32.0
    """Scale numerator of the adapter."""
    lora_dropout: float = 0.0
    """Share of the adapter's inputs that are dropped in training; sft only."""
    use_rslora: bool = False
    """Whether the adapter's scale is alpha ÷ √rank instead of alpha ÷ rank."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ]
    )  # fmt: skip
    """Names of the linear layers that get an update."""
    num_upper_layers: int | None = None
    """Blocks that get an update, counted from the last; None updates all."""
    learning_rate: float = 1e-3
    """Peak step size."""
    schedule: str = "linear"
    """How the step size falls after its peak: constant_with_warmup, linear or cosine."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the step size rises from zero."""
    weight_decay: float = 0.0
    """Decay of the tuned weights."""
    max_grad_norm: float = 1.0
    """L2 bound on the gradient of a step; against outliers, not for privacy."""
    num_epochs: int = 1
    """Passes over the pool in each round."""
    num_epochs_later_rounds: int | None = None
    """Passes over the pool in rounds after the first; None takes `num_epochs`."""
    num_steps: int | None = None
    """Optimiser steps of all rounds together, in the place of passes, so that arms whose pools or
    rounds differ tune for as long. Rounds share them evenly; what is left over goes to the first
    ones. None goes by passes."""
    batch_size: int = 8
    """Samples in an optimiser step."""
    max_physical_batch_size: int = 8
    """Responses that go through the model at once; in orpo and dpo a sample has two."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut."""
    max_response_tokens: int = 320
    """A longer response is cut."""
    num_processes: int = 1
    """Processes among which each batch is split, one for each accelerator."""
    checkpoint_steps: int = 20
    """Optimiser steps between checkpoints, from which a killed tuning goes on."""
    dtype: str = "auto"
    """In what the base computes: float32, bfloat16, or auto for what is fastest on the device.
    Weights that are tuned are float32."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    report_to: str = "tensorboard"
    """Who keeps the training curves, in the run folder: none, tensorboard, mlflow or wandb."""
    export_merged: bool = False
    """Whether the outputs hold the target with its adapter merged, as an ordinary model folder."""

    def __post_init__(self) -> None:
        require_choice("finetuning.method", self.method, tuple(Method))
        require_choice("finetuning.schedule", self.schedule, _SCHEDULES)
        require_choice("finetuning.report_to", self.report_to, tuple(Tracker))
        require_choice("finetuning.objective", self.objective, tuple(Objective))
        require_choice("finetuning.dtype", self.dtype, DTYPES)
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
        for name in ("num_upper_layers", "num_epochs_later_rounds", "num_steps"):
            if getattr(self, name) is not None:
                require_counts("finetuning", self, name)
        require_positive(
            "finetuning", self, "lora_alpha", "learning_rate", "max_grad_norm", "preference_beta"
        )
        require_fractions("finetuning", self, "lora_dropout", "warmup_fraction", "weight_decay")
        require(
            self.warmup_fraction < 1,  # where 1 means a single step to the trainer
            "finetuning.warmup_fraction",
            "a fraction in [0, 1)",
            self.warmup_fraction,
        )
        require(bool(self.target_modules), "finetuning.target_modules", "at least one name", "none")
        is_partial = self.method == Method.FULL and self.num_upper_layers is not None
        require(
            not is_partial,
            "finetuning.num_upper_layers",
            "null, because method=full tunes every weight",
            self.num_upper_layers,
        )
        require(
            self.objective == Objective.SFT or self.lora_dropout == 0,
            "finetuning.lora_dropout",
            f"0, because objective={self.objective} compares two responses without dropout",
            self.lora_dropout,
        )

    def num_epochs_in(self, round_index: int) -> int:
        """Return how many passes over the pool a round makes; rounds count from 1."""
        later = self.num_epochs_later_rounds
        return self.num_epochs if round_index == 1 or later is None else later

    def in_round(self, round_index: int, *, num_rounds: int) -> FinetuningConfig:
        """Return what one of so many rounds does: its share of `num_steps`; rounds count from 1.

        Args:
            round_index: The round, from 1 to `num_rounds`.
            num_rounds: Rounds of the run, at most `num_steps` where that is set.

        Returns:
            These settings with the round's own `num_steps`; unchanged where passes are counted.
        """
        if self.num_steps is None:
            return self
        share, rest = divmod(self.num_steps, num_rounds)
        return replace(self, num_steps=share + (round_index <= rest))
