"""Settings of stage 12: feedback, rewriting and judging again."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from server_side.config.checks import (
    require_choice,
    require_counts,
)
from server_side.config.choices import ENGINES, WhenCut
from server_side.config.sampling import SamplingConfig


class FeedbackWriter(StrEnum):
    """Which model compares `chosen` with `rejected` before a rewrite."""

    GENERATOR = "generator"
    """The generator proxy of the query's client, as published."""
    TARGET = "target"
    """The current target model."""
    NONE = "none"
    """Nobody: a fixed sentence asks for a better answer."""


class ThresholdRule(StrEnum):
    """What a query must reach to join the pool, by the figure that selects queries."""

    LOWEST = "lowest"
    """The lowest figure in the pool, as published."""
    MEDIAN = "median"
    """The median in the pool."""
    NONE = "none"
    """Nothing: every query joins."""


class PoolGrowth(StrEnum):
    """What a query that reaches the threshold may do."""

    JOIN_AND_RENEW = "join_and_renew"
    """Join the pool, or renew its sample there, as published."""
    JOIN = "join"
    """Join the pool; samples that are in it stay as they are."""
    RENEW = "renew"
    """Renew its sample; nobody joins, so that the pool keeps its size."""


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """Stage 12: feedback, rewriting by the current target, and judging again."""

    num_rounds: int = 2
    """Rounds in all, the first one included; 1 leaves refinement out."""
    num_candidates: int = 4
    """Rewrites of each response."""
    max_queries: int | None = 24
    """Queries that are rewritten in a round, those about the edge of the pool; None takes all that
    may change it."""
    feedback_writer: str = "generator"
    """Which model writes the feedback: generator, target or none."""
    threshold: str = "lowest"
    """What a query must reach to join the pool: its lowest figure, its median, or none."""
    pool_growth: str = "join_and_renew"
    """What a query that reaches it may do: join_and_renew, join or renew."""
    feedback_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How feedback is drawn."""
    rewrite_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How rewrites are drawn."""
    when_cut: str = "trim"
    """What becomes of a rewrite that its greatest length cut: trim to its last whole sentence, or
    drop, as code needs. Feedback is used as it is."""
    min_response_words: int = 3
    """A shorter rewrite falls."""
    engine: str = "auto"
    """Sampling engine: auto, openvino, transformers or vllm."""

    def __post_init__(self) -> None:
        self.feedback_sampling.check("refinement.feedback_sampling")
        self.rewrite_sampling.check("refinement.rewrite_sampling")
        require_counts("refinement", self, "num_rounds", "num_candidates", "min_response_words")
        if self.max_queries is not None:
            require_counts("refinement", self, "max_queries")
        require_choice("refinement.feedback_writer", self.feedback_writer, FeedbackWriter)
        require_choice("refinement.threshold", self.threshold, ThresholdRule)
        require_choice("refinement.pool_growth", self.pool_growth, PoolGrowth)
        require_choice("refinement.when_cut", self.when_cut, WhenCut)
        require_choice("refinement.engine", self.engine, ENGINES)
