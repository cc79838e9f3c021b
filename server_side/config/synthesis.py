"""Settings of stages 7 and 8: prompts and responses."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from protocol.errors import ConfigurationError
from server_side.config.checks import (
    require,
    require_choice,
    require_counts,
    require_fractions,
)
from server_side.config.choices import ENGINES, WhenCut
from server_side.config.sampling import SamplingConfig


class PublicPromptsUse(StrEnum):
    """What public prompts are for."""

    REPLACE = "replace"
    """They are answered in the place of as many that the generators would write."""
    FEW_SHOT = "few_shot"
    """A few of them stand before each prompt that a generator writes, as examples."""


_MAX_ATTEMPTS_FACTOR: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Stages 7 and 8: prompts from the generators, and responses to them."""

    num_queries: int = 120
    """Prompts to keep in all, over all clients."""
    num_candidates: int = 4
    """Responses to each prompt."""
    client_weights: dict[str, float] | None = None
    """Share of the prompts that each client's generator writes; None gives all the same. Every
    client is named, one that is to write nothing with 0: a name that is missing is refused before
    anybody trains. The share of a client that did not deliver falls to the others, by their
    weights."""
    prompt_sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(max_new_tokens=80)
    )
    """How prompts are drawn."""
    response_sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(top_p=1.0))
    """How responses are drawn: from the whole distribution, which is what a generator has learnt.
    The paper cuts it to seven tenths (docs/decisions/0019)."""
    public_prompts_path: str | None = None
    """Public prompts of the domain, for what `public_prompts_use` says."""
    public_prompts_column: str | None = None
    """Their column; None infers it from known names."""
    public_prompts_use: str = "replace"
    """What they are for: replace (as many prompts that the generators would write) or few_shot
    (shown to the generators as examples of what to write)."""
    num_public_examples: int = 3
    """How many of them a generator is shown before each prompt, in few_shot."""
    when_cut: str = "trim"
    """What becomes of a prompt or response that its greatest length cut: trim to its last whole
    sentence, or drop, as code needs."""
    min_prompt_words: int = 4
    """A shorter prompt falls."""
    max_prompt_words: int = 200
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
        self.prompt_sampling.check("synthesis.prompt_sampling")
        self.response_sampling.check("synthesis.response_sampling")
        require_counts("synthesis", self, "num_queries", "min_prompt_words", "min_response_words")
        limits = "a whole number from 1 to 10^7"
        require(self.num_queries <= 10**7, "synthesis.num_queries", limits, self.num_queries)
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
            1 <= self.max_attempts_factor <= _MAX_ATTEMPTS_FACTOR,
            "synthesis.max_attempts_factor",
            f"a number in [1, {_MAX_ATTEMPTS_FACTOR:,}]",
            self.max_attempts_factor,
        )
        require_fractions("synthesis", self, "min_yield")
        require_choice("synthesis.when_cut", self.when_cut, WhenCut)
        require_choice("synthesis.engine", self.engine, ENGINES)
        require_choice("synthesis.public_prompts_use", self.public_prompts_use, PublicPromptsUse)
        require_counts("synthesis", self, "num_public_examples")
        require(
            self.public_prompts_use == PublicPromptsUse.REPLACE
            or self.public_prompts_path is not None,
            "synthesis.public_prompts_path",
            "a file of prompts to show, because synthesis.public_prompts_use=few_shot",
            "nothing",
        )
        weights = self.client_weights
        if weights is not None:
            are_weights = all(math.isfinite(w) and w >= 0 for w in weights.values())
            require(
                are_weights and sum(weights.values()) > 0,
                "synthesis.client_weights",
                "weights >= 0 by client name, not all zero",
                weights,
            )

    def unweighted(self, client_names: Collection[str]) -> list[str]:
        """Return the clients that the weights pass over; none where all write the same share.

        Args:
            client_names: Clients that take part.

        Returns:
            Their names, sorted.
        """
        weights = self.client_weights
        return [] if weights is None else sorted({*client_names} - weights.keys())

    def check_weights(self, client_names: Collection[str]) -> None:
        """Refuse weights that pass over a client, before it trains for nothing.

        Args:
            client_names: Clients that are about to train.

        Raises:
            ConfigurationError: There are weights, and some of these clients have none.
        """
        if missing := self.unweighted(client_names):
            raise ConfigurationError(
                "Expected synthesis.client_weights to name every client, got a weight for "
                f"{', '.join(self.client_weights or ())} and none for {', '.join(missing)}, whose "
                "generator would write nothing after its full ε is paid. Name it, with weight 0 if "
                "that is meant."
            )
