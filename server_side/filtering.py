"""Stage 10, Reward Guided Filtering: the best response to a query, and the best of the queries.

Within a query, candidates are ranked by several scores and the ranks are averaged by weight; the
first is `chosen`, the last `rejected`. Across queries, those whose `chosen` has the most reward
make the pool. Nothing is drawn here: the same candidates always give the same pool.

Reference: RewardDS (arXiv 2502.18517), section 3.3: `alpha` · rank(reward) + (1 − `alpha`) ·
rank(−perplexity), then the best 1/k. Beyond it: an optional third rank by consensus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from protocol.errors import StageError
from server_side.config import FilteringConfig
from server_side.consensus import consensus_scores
from server_side.samples import CuratedSample, Query, ScoredCandidate, StageResult


def choose_pairs(
    scored: Sequence[ScoredCandidate],
    *,
    queries: Sequence[Query],
    instructions: Mapping[str, str],
    config: FilteringConfig,
) -> StageResult[CuratedSample]:
    """Find the best and the worst response to each query.

    Args:
        scored: Scored candidates, those of one query next to one another.
        queries: The queries that they answer.
        instructions: Each client's instruction, by client name.
        config: Weights of the ranks.

    Returns:
        One sample a query that has two or more candidates, in the order of `scored`.
    """
    by_id = {query.query_id: query for query in queries}
    pairs = []
    num_dropped = 0
    for query_id, group in groupby(scored, key=lambda item: item.candidate.query_id):
        ranked = rank_candidates(list(group), config=config)
        if len(ranked) < 2:
            num_dropped += 1
            continue
        query = by_id[query_id]
        pairs.append(make_pair(ranked, query, instruction=instructions[query.client_name]))
    counts = {"num_pairs": len(pairs), "num_queries_too_few_candidates": num_dropped}
    return StageResult(values=tuple(pairs), counts=counts)


def select_samples(
    pairs: Sequence[CuratedSample], *, config: FilteringConfig
) -> StageResult[CuratedSample]:
    """Keep the best 1/k of the queries, by the reward of `chosen`.

    Args:
        pairs: One sample a query.
        config: `k`, and the least number to keep.

    Returns:
        The pool, a subset in the order of `pairs`. Of equal rewards the one with the smaller
        `query_id` is kept first.

    Raises:
        StageError: There is nothing to select from.
    """
    if not pairs:
        raise StageError(
            "Expected queries to select from, found none. Raise synthesis.num_queries or "
            "synthesis.num_candidates."
        )
    size = min(len(pairs), max(config.min_pool_size, math.ceil(len(pairs) / config.k)))
    best = sorted(pairs, key=lambda pair: (-pair.chosen_reward, pair.query_id))[:size]
    kept = {pair.query_id for pair in best}
    pool = tuple(pair for pair in pairs if pair.query_id in kept)
    counts = {
        "num_pairs": len(pairs),
        "num_below_threshold": len(pairs) - len(pool),
        "num_kept": len(pool),
    }
    return StageResult(values=pool, counts=counts)


def pool_threshold(pool: Sequence[CuratedSample]) -> float:
    """Return the lowest reward of `chosen` in a pool: what a query must reach to join it."""
    return min(sample.chosen_reward for sample in pool)


def rank_candidates(
    candidates: Sequence[ScoredCandidate], *, config: FilteringConfig
) -> list[ScoredCandidate]:
    """Order the candidates of one query from best to worst by their averaged ranks.

    Args:
        candidates: Scored candidates of one query.
        config: Weights of the ranks.

    Returns:
        The candidates. Of equal ranks, the one with more reward stands first, then the one that
        was written earlier.
    """
    terms: list[tuple[float, Sequence[float]]] = [
        (config.alpha, [item.reward for item in candidates]),
        (1 - config.alpha, [-item.perplexity for item in candidates]),
    ]
    if config.consensus_weight > 0:
        agreement = consensus_scores([item.candidate.response for item in candidates])
        terms.append((config.consensus_weight, agreement))
    fused = [0.0] * len(candidates)
    for weight, scores in terms:
        for index, rank in enumerate(average_ranks(scores)):
            fused[index] += weight * rank
    return [
        candidates[index] for index in sorted(range(len(candidates)), key=_order(fused, candidates))
    ]


def average_ranks(scores: Sequence[float]) -> list[float]:
    """Return the rank of each score, 1 for the lowest; equal scores share their mean rank.

    >>> average_ranks([0.3, 0.1, 0.3])
    [2.5, 1.0, 2.5]
    """
    ranks = [0.0] * len(scores)
    order = sorted(range(len(scores)), key=scores.__getitem__)
    position = 1
    for _, group in groupby(order, key=scores.__getitem__):
        tied = list(group)
        for index in tied:
            ranks[index] = position + (len(tied) - 1) / 2
        position += len(tied)
    return ranks


def make_pair(
    ranked: Sequence[ScoredCandidate], query: Query, *, instruction: str
) -> CuratedSample:
    """Put the first and the last of ranked candidates together as one query's sample."""
    best, worst = ranked[0], ranked[-1]
    return CuratedSample(
        query_id=query.query_id,
        client_name=query.client_name,
        instruction=instruction,
        prompt=query.prompt,
        chosen=best.candidate.response,
        rejected=worst.candidate.response,
        chosen_candidate_id=best.candidate.candidate_id,
        rejected_candidate_id=worst.candidate.candidate_id,
        chosen_reward=best.reward,
        rejected_reward=worst.reward,
        chosen_perplexity=best.perplexity,
        round_index=best.candidate.round_index,
    )


def _order(
    fused: Sequence[float], candidates: Sequence[ScoredCandidate]
) -> Callable[[int], tuple[float, float, int, int]]:
    # Rounded, because alpha * 2 + (1 - alpha) * 2 is not always 2.
    return lambda index: (
        -round(fused[index], 9),
        -candidates[index].reward,
        candidates[index].candidate.round_index,
        index,
    )
