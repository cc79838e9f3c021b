"""Stage 9: what the proxies think of each candidate, the parts kept next to the total.

Every client's reward proxy judges every candidate. A reward has no scale of its own, so each
client's rewards are standardised before they are averaged, with the mean and deviation of the
round-1 candidates throughout the run: a reward of round 3 can be compared with one of round 1.
Perplexity is that of the response under the generator of the query's own client.

Reference: RewardDS (arXiv 2502.18517), section 3.3, which has one client and no standardisation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.errors import StageError
from server_side.config import ScoringConfig
from server_side.progress import shifted
from server_side.proxies import GeneratorProxy, PromptAndResponse, RewardProxy
from server_side.samples import Candidate, OnProgress, Query, ScoredCandidate, StageResult

_MIN_RELATIVE_DEVIATION = 1e-6
"""A deviation below this share of the mean size is rounding: the proxy gives a constant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardScale:
    """How one client's rewards lie; what `standardise` subtracts and divides by."""

    mean: float
    """Mean of the rewards."""
    deviation: float
    """Their standard deviation, above zero."""

    def standardise(self, reward: float) -> float:
        """Return how many deviations a reward lies above the mean."""
        return (reward - self.mean) / self.deviation


def score_candidates(
    candidates: Sequence[Candidate],
    *,
    queries: Sequence[Query],
    generators: Sequence[GeneratorProxy],
    reward_proxies: Sequence[RewardProxy],
    scales: Mapping[str, RewardScale] | None,
    config: ScoringConfig,
    on_progress: OnProgress,
) -> StageResult[ScoredCandidate]:
    """Judge candidates by every reward proxy and by their own client's generator.

    Args:
        candidates: What to judge.
        queries: The queries that they answer.
        generators: One generator a client.
        reward_proxies: One reward proxy a client.
        scales: Scale of each client's rewards, from round 1; None takes that of these candidates.
        config: Memory bound.
        on_progress: Told how many judgements are made, of how many.

    Returns:
        The candidates with their scores, in the same order.

    Raises:
        StageError: A reward or perplexity is not a finite number, or a proxy gives a constant.
    """
    if not candidates:
        return StageResult(values=(), counts={"num_scored": 0})
    by_id = {query.query_id: query for query in queries}
    pairs = [(by_id[c.query_id].prompt, c.response) for c in candidates]
    total = (len(reward_proxies) + 1) * len(pairs)
    rewards_by_client: dict[str, list[float]] = {}
    for index, proxy in enumerate(reward_proxies):
        rewards = proxy.rewards(
            pairs,
            max_batch_tokens=config.max_batch_tokens,
            on_progress=shifted(on_progress, offset=index * len(pairs), total=total),
        )
        _require_finite("reward", proxy.client_name, rewards)
        rewards_by_client[proxy.client_name] = rewards
    perplexities = _perplexities_by_own_generator(
        [by_id[c.query_id].client_name for c in candidates],
        pairs,
        generators=generators,
        config=config,
        on_progress=shifted(on_progress, offset=len(reward_proxies) * len(pairs), total=total),
    )
    if scales is None:
        scales = {name: reward_scale(name, rs) for name, rs in rewards_by_client.items()}
    scored = []
    for index, candidate in enumerate(candidates):
        own = {name: rewards[index] for name, rewards in rewards_by_client.items()}
        scored.append(
            ScoredCandidate(
                candidate=candidate,
                reward=statistics.fmean(scales[name].standardise(r) for name, r in own.items()),
                rewards_by_client=own,
                perplexity=perplexities[index],
            )
        )
    return StageResult(values=tuple(scored), counts={"num_scored": len(scored)})


def reward_scales(scored: Sequence[ScoredCandidate]) -> Mapping[str, RewardScale]:
    """Return each client's scale, from the unstandardised rewards of scored candidates.

    Args:
        scored: The candidates of round 1.

    Raises:
        StageError: A client's rewards are all the same.
    """
    names = scored[0].rewards_by_client
    return {
        name: reward_scale(name, [item.rewards_by_client[name] for item in scored])
        for name in names
    }


def reward_scale(client_name: str, rewards: Sequence[float]) -> RewardScale:
    """Return the scale of one client's rewards.

    Raises:
        StageError: The rewards are all the same, so they cannot tell candidates apart.
    """
    mean = statistics.fmean(rewards)
    deviation = statistics.pstdev(rewards, mu=mean)
    size = statistics.fmean(map(abs, rewards))
    if not deviation > _MIN_RELATIVE_DEVIATION * size:
        raise StageError(
            f"Expected the reward proxy of client {client_name} to tell {len(rewards)} candidates "
            f"apart, found a constant reward of {mean:g}. The proxy has learnt nothing; leave the "
            "client out, or have it trained again with more steps or a higher learning rate."
        )
    return RewardScale(mean=mean, deviation=deviation)


def _perplexities_by_own_generator(
    client_names: Sequence[str],
    pairs: Sequence[PromptAndResponse],
    *,
    generators: Sequence[GeneratorProxy],
    config: ScoringConfig,
    on_progress: OnProgress,
) -> list[float]:
    perplexities = [math.nan] * len(pairs)
    done = 0
    for generator in generators:
        own = [i for i, name in enumerate(client_names) if name == generator.client_name]
        if not own:
            continue
        values = generator.perplexities(
            [pairs[i] for i in own],
            max_batch_tokens=config.max_batch_tokens,
            on_progress=shifted(on_progress, offset=done, total=len(pairs)),
        )
        _require_finite("perplexity", generator.client_name, values)
        for i, value in zip(own, values, strict=True):
            perplexities[i] = value
        done += len(own)
    assert not any(map(math.isnan, perplexities)), "every query has a client with a generator"
    return perplexities


def _require_finite(what: str, client_name: str, values: Sequence[float]) -> None:
    num_bad = sum(not math.isfinite(value) for value in values)
    if num_bad:
        raise StageError(
            f"Expected a finite {what} for every candidate from client {client_name}, found "
            f"{num_bad} of {len(values)} that are not. Its released weights are broken; leave the "
            "client out, or ask it for another release."
        )
