"""Settings of stages 7 and 8: prompts and responses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from server_side.config.choices import ENGINES
from server_side.config.sampling import SamplingConfig
from server_side.setting_checks import (
    require,
    require_choice,
    require_counts,
    require_fractions,
)


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Stages 7 and 8: prompts from the generators, and responses to them."""

    num_queries: int = 120
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
    public_prompts_path: str | None = None
    """Public prompts, answered in the place of as many that the generators would write."""
    public_prompts_column: str | None = None
    """Their column; None infers it from known names."""
    min_prompt_words: int = 4
    """A shorter prompt falls."""
    max_prompt_words: int = 120
    """A longer prompt falls."""
    min_response_words: int = 3
    """A shorter response falls."""
    max_attempts_factor: float = 4.0
    """Prompts sampled ÷ prompts wanted at which asking again ends."""
    min_yield: float = 0.1
    """Share of `num_queries` that must be found; with fewer the job ends there."""
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
        require_fractions("synthesis", self, "min_yield")
        require_choice("synthesis.engine", self.engine, ENGINES)
        weights = self.client_weights
        if weights is not None:
            are_weights = all(math.isfinite(w) and w >= 0 for w in weights.values())
            require(
                are_weights and sum(weights.values()) > 0,
                "synthesis.client_weights",
                "weights >= 0 by client name, not all zero",
                weights,
            )
