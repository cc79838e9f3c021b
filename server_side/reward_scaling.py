"""What makes one client's rewards comparable with another's, and with those of a later round.

A reward has no scale of its own. Each client's rewards are standardised with the mean and deviation
of its rewards of the round-1 candidates, throughout the run; where length is taken out, with what
length explains within a prompt as well. A proxy that tells nothing apart has no scale.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from protocol.errors import StageError
from server_side.config import FilteringConfig, ScoringConfig
from server_side.samples import Candidate, ScoredCandidate

LENGTH_CORRELATION: Final = "reward_length_correlation"
"""Under what name that correlation stands among a stage's figures."""
_MIN_RELATIVE_DEVIATION = 1e-6
"""A deviation below this share of the mean size is rounding: the proxy gives a constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardScale:
    """How one client's rewards lie; what `standardise` takes out and divides by."""

    mean: float
    """Mean of the rewards."""
    deviation: float
    """Their standard deviation, what length explains taken out; above zero."""
    length_slope: float = 0.0
    """What a unit of log length adds to a reward within a prompt; 0 leaves length in."""
    mean_log_length: float = 0.0
    """Mean log length of the responses."""

    def standardise(self, reward: float, *, response: str) -> float:
        """Return how many deviations a response's reward lies above the mean.

        Args:
            reward: Reward of the response, as the client's proxy gave it.
            response: The response, whose number of words counts where length is taken out.

        Returns:
            A number without unit; below zero for less reward than the mean.
        """
        expected = self.length_slope * (_log_length(response) - self.mean_log_length)
        return (reward - self.mean - expected) / self.deviation


def reward_scales(
    scored: Sequence[ScoredCandidate], *, config: ScoringConfig, filtering: FilteringConfig
) -> Mapping[str, RewardScale]:
    """Return each client's scale, from the unstandardised rewards of scored candidates.

    Args:
        scored: The candidates of round 1.
        config: Whether length is taken out.
        filtering: Whether any choice looks at the reward.

    Returns:
        A scale for each client whose proxy was not left out; none may be left where no choice looks
        at the reward.

    Raises:
        StageError: The reward is needed, and every proxy was left out.
    """
    found = find_scales(
        [item.candidate for item in scored],
        [item.rewards_by_client for item in scored],
        config=config,
    )
    scales = {name: scale for name, scale in found.items() if isinstance(scale, RewardScale)}
    if not scales and filtering.needs_reward:
        raise StageError(
            f"Expected a reward proxy that tells {len(scored)} candidates apart, found none: every "
            "one gives a constant, what length alone says, or no finite number. Have them trained "
            "again with more steps or a higher learning rate, or run an arm that chooses without "
            "the reward, such as similarity_filter."
        )
    return scales


def find_scales(
    candidates: Sequence[Candidate],
    rewards: Sequence[Mapping[str, float]],
    *,
    config: ScoringConfig,
) -> dict[str, RewardScale | str]:
    """Return each client's scale, or why its rewards have none.

    Args:
        candidates: What was judged.
        rewards: For each of them, what the clients' proxies gave; not every client judges all.
        config: Whether length is taken out.

    Returns:
        By client, its scale or a reason in words.
    """
    judged: dict[str, list[tuple[Candidate, float]]] = {}
    for candidate, own in zip(candidates, rewards, strict=True):
        for name, reward in own.items():
            judged.setdefault(name, []).append((candidate, reward))
    return {name: _scale(own, config=config) for name, own in judged.items()}


def length_correlation(scored: Sequence[ScoredCandidate]) -> float:
    """Return how reward and log length correlate among responses to one prompt.

    Args:
        scored: Scored candidates, those of one query next to one another.

    Returns:
        Pearson's coefficient of the deviations from the prompt's mean, over all prompts; 0 where
        nothing differs.
    """
    lengths = _within_queries(
        [item.candidate for item in scored],
        [_log_length(item.candidate.response) for item in scored],
    )
    rewards = _within_queries([item.candidate for item in scored], [item.reward for item in scored])
    spread = math.sqrt(_dot(lengths, lengths) * _dot(rewards, rewards))
    return max(-1.0, min(1.0, _dot(lengths, rewards) / spread)) if spread > 0 else 0.0


def _scale(
    judged: Sequence[tuple[Candidate, float]], *, config: ScoringConfig
) -> RewardScale | str:
    rewards = [reward for _, reward in judged]
    mean = statistics.fmean(rewards)
    size = statistics.fmean(map(abs, rewards))
    deviation = statistics.pstdev(rewards, mu=mean)
    if not deviation > _MIN_RELATIVE_DEVIATION * size:
        return f"it gives {len(rewards)} candidates a constant reward of {mean:g}"
    if not config.length_debias:
        return RewardScale(mean=mean, deviation=deviation)
    candidates = [candidate for candidate, _ in judged]
    lengths = [_log_length(candidate.response) for candidate in candidates]
    own_lengths = _within_queries(candidates, lengths)
    spread = _dot(own_lengths, own_lengths)
    slope = _dot(own_lengths, rewards) / spread if spread > 0 else 0.0
    mean_length = statistics.fmean(lengths)
    rest = [
        reward - slope * (length - mean_length)
        for reward, length in zip(rewards, lengths, strict=True)
    ]
    deviation = statistics.pstdev(rest, mu=mean)
    if not deviation > _MIN_RELATIVE_DEVIATION * size:
        return "its rewards follow from length alone, which scoring.length_debias takes out"
    return RewardScale(
        mean=mean, deviation=deviation, length_slope=slope, mean_log_length=mean_length
    )


def _within_queries(candidates: Sequence[Candidate], values: Sequence[float]) -> list[float]:
    """Return each value's deviation from the mean of its query."""
    deviations: list[float] = []
    rows = zip(candidates, values, strict=True)
    for _, group in groupby(rows, key=lambda row: row[0].query_id):
        own = [value for _, value in group]
        mean = statistics.fmean(own)
        deviations += [value - mean for value in own]
    return deviations


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(first, second, strict=True))


def _log_length(response: str) -> float:
    return math.log1p(len(response.split()))
