"""Settings of stage 0: public text that the proxies' starting weights are tuned on."""

from __future__ import annotations

from dataclasses import dataclass

from server_side.config.checks import require, require_counts, require_positive


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Stage 0: starting weights from public text, before any private record is seen."""

    path: str | None = None
    """File or `datasets` name of public prompts and responses; None leaves the stage out."""
    split: str | None = None
    """Split of a `datasets` name."""
    prompt_column: str | None = None
    """Column with the prompt; None infers it from known names."""
    response_column: str | None = None
    """Column with the response; None infers it from known names."""
    instruction: str = "Answer the message."
    """System turn of the chats; best the one that the clients state."""
    max_rows: int = 1000
    """Rows that are used, at most."""
    steps: int = 50
    """Optimiser steps for each proxy."""
    batch_size: int = 8
    """Rows of a step."""
    learning_rate: float = 1e-2
    """Step size of Adam."""
    max_prompt_tokens: int = 96
    """A longer prompt is cut."""
    max_response_tokens: int = 128
    """A longer response is cut."""
    engine: str = "auto"
    """Engine that samples the base model's responses, which the reward is taught to rank lower."""

    def __post_init__(self) -> None:
        require_counts(
            "warm_start",
            self,
            "max_rows",
            "steps",
            "batch_size",
            "max_prompt_tokens",
            "max_response_tokens",
        )
        require_positive("warm_start", self, "learning_rate")
        require(bool(self.instruction.strip()), "warm_start.instruction", "a sentence", "nothing")
        engines = ("auto", "openvino", "transformers")
        require(
            self.engine in engines,
            "warm_start.engine",
            f"one of {', '.join(engines)}",
            self.engine,
        )
