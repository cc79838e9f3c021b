"""Settings of the judgement of the ranking, a part of stage 13."""

from __future__ import annotations

from dataclasses import dataclass

from server_side.config.checks import require


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """Stage 13: whether the scores by which responses are chosen can tell good from bad ones."""

    max_rows: int = 0
    """Public test prompts that the generators answer for it, the first ones; 0 leaves it out."""

    def __post_init__(self) -> None:
        require(self.max_rows >= 0, "ranking.max_rows", "a whole number >= 0", self.max_rows)
