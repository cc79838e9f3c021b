"""Settings of stage 10: what is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from server_side.config.checks import (
    require,
    require_choice,
    require_counts,
)


class ChooseBy(StrEnum):
    """By what the responses to one query are ordered."""

    RANKS = "ranks"
    """Averaged ranks of reward and likelihood, as published, and of consensus by its weight."""
    CONSENSUS = "consensus"
    """Agreement with the query's other responses alone; neither reward nor likelihood is asked."""
    FIRST = "first"
    """Nothing: the first response of the newest round, unjudged."""


class SelectBy(StrEnum):
    """By what queries are compared with one another."""

    REWARD = "reward"
    """Reward of `chosen`, as published."""
    CONSENSUS = "consensus"
    """Consensus of `chosen`."""
    ALL = "all"
    """Nothing: every query is kept, whatever `k` says."""


@dataclass(frozen=True, kw_only=True)
class FilteringConfig:
    """Stage 10: the best and the worst response to a query, and the best of the queries."""

    choose_by: str = "ranks"
    """By what the responses to one query are ordered: ranks, consensus or first."""
    alpha: float = 0.5
    """Weight of the reward's rank within a query; that of likelihood is one minus it."""
    consensus_weight: float = 1.0
    """Weight of the rank of mean ROUGE-L to the query's other responses; 0 as published."""
    select_by: str = "reward"
    """By what queries are compared, here and at the pool's threshold: reward, consensus or all."""
    k: float = 1.5
    """The best 1/k of the queries make the first pool."""
    min_pool_size: int = 1
    """The first pool has at least so many samples, if there are so many."""
    max_similarity: float = 0.8
    """Share of word trigrams in common with a better sample above which one falls; 1 is off."""

    def __post_init__(self) -> None:
        require_choice("filtering.choose_by", self.choose_by, ChooseBy)
        require_choice("filtering.select_by", self.select_by, SelectBy)
        require(0 <= self.alpha <= 1, "filtering.alpha", "a fraction in [0, 1]", self.alpha)
        require(
            math.isfinite(self.consensus_weight) and self.consensus_weight >= 0,
            "filtering.consensus_weight",
            "a finite number >= 0",
            self.consensus_weight,
        )
        require(math.isfinite(self.k) and self.k >= 1, "filtering.k", "a number >= 1", self.k)
        require_counts("filtering", self, "min_pool_size")
        require(
            0 < self.max_similarity <= 1,
            "filtering.max_similarity",
            "0 < value <= 1",
            self.max_similarity,
        )

    @property
    def chooses_by_reward(self) -> bool:
        """Whether the reward has a say in which response to a query is the best."""
        return self.choose_by == ChooseBy.RANKS and self.alpha > 0

    @property
    def needs_reward(self) -> bool:
        """Whether any choice, of responses or of queries, looks at the reward."""
        return self.chooses_by_reward or self.select_by == SelectBy.REWARD
