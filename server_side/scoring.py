"""Stage 9: what the proxies think of each candidate, the parts kept next to the total.

Every client's reward proxy judges every candidate, or its own client's alone. Each client's rewards
are standardised before they are put together (`server_side/reward_scaling.py`), so that a reward of
round 3 can be compared with one of round 1. Perplexity is that of the response under the generator
of the query's own client; consensus is its agreement with the candidates of round 1.

A proxy that gives a constant, or a reward that is no number, tells nothing apart. It is left out in
round 1 and thereafter, said aloud and counted; whether the run can do without any reward is for
what chooses by it to say (`reward_scales`). Where the own client's proxy judges alone, those that
are left judge in its place: with 0 for all its candidates that client would lie below the best of
the others', and drop out of the pool.

A reward model may have learnt length in the place of quality, and what is selected by it then grows
longer or shorter round by round. So the correlation of reward and length within a prompt is
measured each time, said aloud where it is strong, and can be taken out.

Reference: RewardDS (arXiv 2502.18517), section 3.3, which has one client and no standardisation.
Singhal et al. (2023) on length in rewards.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lm.errors import ScoringError
from protocol.errors import StageError
from server_side.config import Ensemble, ScoringConfig
from server_side.consensus import consensus_scores
from server_side.progress import shifted
from server_side.proxies import GeneratorProxy, PromptAndResponse, RewardProxy
from server_side.reward_scaling import (
    LENGTH_CORRELATION,
    RewardScale,
    find_scales,
    length_correlation,
)
from server_side.samples import Candidate, OnProgress, Query, ScoredCandidate, StageResult

_LOGGER = logging.getLogger(__name__)
_STRONG_CORRELATION = 0.5
"""Above it, length explains more than a quarter of what tells responses to a prompt apart."""
_MIN_FREE_DEVIATIONS = 30
"""With fewer, that strong a correlation is found by chance more than once in two hundred times."""


def score_candidates(
    candidates: Sequence[Candidate],
    *,
    panel: Sequence[Candidate],
    queries: Sequence[Query],
    generators: Sequence[GeneratorProxy],
    reward_proxies: Sequence[RewardProxy],
    scales: Mapping[str, RewardScale] | None,
    config: ScoringConfig,
    on_progress: OnProgress,
) -> StageResult[ScoredCandidate]:
    """Judge candidates by the reward proxies, by their own client's generator and by consensus.

    Args:
        candidates: What to judge.
        panel: The candidates of round 1, by which consensus is measured.
        queries: The queries that they answer.
        generators: One generator a client.
        reward_proxies: One reward proxy a client.
        scales: Scale of each client's rewards, from round 1; a client without one is not asked.
            None takes the scales of these candidates and leaves out who tells nothing apart.
        config: How rewards are put together, and the memory bound.
        on_progress: Told how many judgements are made, of how many.

    Returns:
        The candidates with their scores, in the same order. Where nobody is left to judge, all have
        the reward 0. The figures say how reward and length correlate within a prompt, the counts
        how many proxies were left out.

    Raises:
        StageError: A perplexity is not a finite number, or the reward of a proxy that has a scale.
    """
    if not candidates:
        return StageResult(values=(), counts={"num_scored": 0})
    by_id = {query.query_id: query for query in queries}
    client_names = [by_id[c.query_id].client_name for c in candidates]
    pairs = [(by_id[c.query_id].prompt, c.response) for c in candidates]
    judged = _ask_proxies(
        candidates,
        client_names,
        pairs,
        reward_proxies=reward_proxies,
        scales=scales,
        config=config,
        on_progress=on_progress,
    )
    perplexities = _perplexities_by_own_generator(
        client_names,
        pairs,
        generators=generators,
        config=config,
        on_progress=shifted(
            on_progress, offset=judged.num_asked, total=judged.num_asked + len(pairs)
        ),
    )
    counts = {"num_scored": len(candidates)}
    if scales is None:
        counts["num_reward_proxies_left_out"] = len(judged.left_out)
        _warn_of_left_out(judged, config=config)
    scored = tuple(
        ScoredCandidate(
            candidate=candidate,
            reward=_ensemble(candidate.response, own, scales=judged.scales, config=config),
            rewards_by_client=own,
            perplexity=perplexity,
            consensus=consensus,
        )
        for candidate, own, perplexity, consensus in zip(
            candidates,
            judged.rewards,
            perplexities,
            consensus_scores(candidates, panel=panel),
            strict=True,
        )
    )
    correlation = length_correlation(scored)
    num_free = len(scored) - len({item.candidate.query_id for item in scored})
    if abs(correlation) > _STRONG_CORRELATION and num_free >= _MIN_FREE_DEVIATIONS:
        _LOGGER.warning(
            "Rewards follow the length of a response: correlation %.2f within a prompt. What is "
            "selected by them may be %s rather than better; scoring.length_debias takes length "
            "out.",
            correlation,
            "longer" if correlation > 0 else "shorter",
        )
    return StageResult(values=scored, counts=counts, figures={LENGTH_CORRELATION: correlation})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    """What the reward proxies said."""

    rewards: list[dict[str, float]]
    """For each candidate, by client, the reward as its proxy gave it."""
    scales: Mapping[str, RewardScale]
    """Scale of each client's rewards."""
    left_out: Mapping[str, str]
    """Clients whose proxies have no say, and why; of a later round without a reason."""
    num_asked: int
    """How many rewards were asked for."""


def _ask_proxies(
    candidates: Sequence[Candidate],
    client_names: Sequence[str],
    pairs: Sequence[PromptAndResponse],
    *,
    reward_proxies: Sequence[RewardProxy],
    scales: Mapping[str, RewardScale] | None,
    config: ScoringConfig,
    on_progress: OnProgress,
) -> _Judged:
    """Ask the proxies until every candidate has all its judges that are left."""
    rewards: list[dict[str, float]] = [{} for _ in pairs]
    found: dict[str, RewardScale | str] = {}
    left_out: dict[str, str] = {}
    if scales is not None:
        left_out = {p.client_name: "" for p in reward_proxies if p.client_name not in scales}
    done, total = 0, len(pairs)  # the perplexities come after
    # Again where some turn out to tell nothing apart, so that others judge in their place.
    while questions := _questions(client_names, reward_proxies, rewards, left_out, config=config):
        total += sum(len(asked) for _, asked in questions)
        for proxy, asked in questions:
            values = _rewards(
                proxy,
                [pairs[i] for i in asked],
                config=config,
                on_progress=shifted(on_progress, offset=done, total=total),
            )
            done += len(asked)
            if values is None and scales is not None:
                raise _broken("reward", proxy.client_name)
            if values is None:
                left_out[proxy.client_name] = "it gives rewards that are not finite numbers"
                continue
            for i, value in zip(asked, values, strict=True):
                rewards[i][proxy.client_name] = value
        if scales is None:
            rewards = _without(rewards, left_out)
            found = find_scales(candidates, rewards, config=config)
            left_out |= {name: why for name, why in found.items() if isinstance(why, str)}
    if scales is None:
        scales = {name: scale for name, scale in found.items() if isinstance(scale, RewardScale)}
    return _Judged(
        rewards=_without(rewards, left_out), scales=scales, left_out=left_out, num_asked=done
    )


def _without(
    rewards: Sequence[Mapping[str, float]], left_out: Collection[str]
) -> list[dict[str, float]]:
    return [{name: own[name] for name in own if name not in left_out} for own in rewards]


def _warn_of_left_out(judged: _Judged, *, config: ScoringConfig) -> None:
    is_replaced = config.ensemble == Ensemble.OWN and judged.scales
    instead = " Those that are left judge its client's candidates." if is_replaced else ""
    for name, why in judged.left_out.items():
        _LOGGER.warning("The reward proxy of client %s is left out: %s.%s", name, why, instead)


def _questions(
    client_names: Sequence[str],
    reward_proxies: Sequence[RewardProxy],
    rewards: Sequence[Mapping[str, float]],
    left_out: Collection[str],
    *,
    config: ScoringConfig,
) -> list[tuple[RewardProxy, list[int]]]:
    """Return who is yet to judge which candidates, by their places; `client_names` are theirs."""
    asks_own = config.ensemble == Ensemble.OWN
    questions = []
    for proxy in reward_proxies:
        whose = {proxy.client_name, *left_out} if asks_own else {*client_names}
        due = [i for i, name in enumerate(client_names) if name in whose]
        asked = [i for i in due if proxy.client_name not in rewards[i]]
        if asked and proxy.client_name not in left_out:
            questions.append((proxy, asked))
    return questions


def _rewards(
    proxy: RewardProxy,
    pairs: Sequence[PromptAndResponse],
    *,
    config: ScoringConfig,
    on_progress: OnProgress,
) -> list[float] | None:
    """Return a proxy's rewards; None where some are not finite."""
    try:
        values = proxy.rewards(
            pairs, max_batch_tokens=config.max_batch_tokens, on_progress=on_progress
        )
    except ScoringError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _ensemble(
    response: str,
    rewards: Mapping[str, float],
    *,
    scales: Mapping[str, RewardScale],
    config: ScoringConfig,
) -> float:
    standardised = [
        scales[name].standardise(reward, response=response) for name, reward in rewards.items()
    ]
    if not standardised:
        return 0.0
    match Ensemble(config.ensemble):
        case Ensemble.MIN:
            return min(standardised)
        case Ensemble.MEAN | Ensemble.OWN:  # of the own client one alone, or of those in its place
            return statistics.fmean(standardised)


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
        try:
            values = generator.perplexities(
                [pairs[i] for i in own],
                max_batch_tokens=config.max_batch_tokens,
                on_progress=shifted(on_progress, offset=done, total=len(pairs)),
            )
        except ScoringError as caught:
            raise _broken("perplexity", generator.client_name) from caught
        if not all(map(math.isfinite, values)):
            raise _broken("perplexity", generator.client_name)
        for i, value in zip(own, values, strict=True):
            perplexities[i] = value
        done += len(own)
    assert not any(map(math.isnan, perplexities)), "every query has a client with a generator"
    return perplexities


def _broken(what: str, *client_names: str) -> StageError:
    return StageError(
        f"Expected a finite {what} for every candidate from client {', '.join(client_names)}, "
        "found some that are not. The released weights are broken; ask for another release, in "
        "another run."
    )
