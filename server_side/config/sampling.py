"""How completions are drawn; part of the settings of several stages."""

from __future__ import annotations

from dataclasses import dataclass

from server_side.config.checks import require, require_counts


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How completions are drawn from a model."""

    max_new_tokens: int = 100
    """Tokens at which a completion is cut; it then counts as unfinished."""
    temperature: float = 1.0
    """Divides the logits."""
    top_p: float = 0.7
    """Probability that the smallest set of likeliest tokens must reach."""
    repetition_penalty: float = 1.0
    """Weakens tokens that occurred before; 1 is none."""

    def check(self, group: str) -> None:
        """Refuse what is out of range; for the settings that hold these, which know their name.

        Args:
            group: What the user types before the names, without the dot.

        Raises:
            ConfigurationError: It names the setting as the user typed it, and shows the value.
        """
        require_counts(group, self, "max_new_tokens")
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            # Logits that are divided by next to nothing are infinite, and nothing can be drawn.
            require(1e-6 <= value <= 1e6, f"{group}.{name}", "a number in [10^-6, 10^6]", value)
        require(0 < self.top_p <= 1, f"{group}.top_p", "0 < top_p <= 1", self.top_p)
