"""Settings of stage 10: what is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from server_side.setting_checks import (
    require,
    require_counts,
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
