"""Settings of stage 9: rewards and perplexities."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server_side.config.checks import (
    require_choice,
    require_counts,
)


class Ensemble(StrEnum):
    """How the standardised rewards of several clients become one."""

    MEAN = "mean"
    """Their mean."""
    MIN = "min"
    """The least of them: what one proxy alone likes counts for little."""
    OWN = "own"
    """That of the query's own client; the others are asked only where it tells nothing apart."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Stage 9: reward under every client's reward proxy, perplexity under the generator."""

    ensemble: str = "mean"
    """How the clients' standardised rewards become one: mean, min or own. A proxy that gives a
    constant or no finite number is left out; in own, its client's queries then take the mean of
    those that are left."""
    length_debias: bool = False
    """Whether what a response's length alone explains is taken out of its reward."""
    max_batch_tokens: int = 2048
    """Tokens, padding included, that go through a model at once."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut before it is answered by a generator, and before it is scored."""
    max_response_tokens: int = 320
    """A longer response is cut before it is scored."""

    def __post_init__(self) -> None:
        require_choice("scoring.ensemble", self.ensemble, Ensemble)
        require_counts(
            "scoring", self, "max_batch_tokens", "max_prompt_tokens", "max_response_tokens"
        )
