"""Settings of stage 9: rewards and perplexities."""

from __future__ import annotations

from dataclasses import dataclass

from server_side.setting_checks import (
    require_counts,
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
