"""Stage 10, Reward Guided Filtering: the best response to a query, and the best of the queries.

Within a query, candidates are ranked by several scores and the ranks are averaged by weight; the
first is `chosen`, the last `rejected`. Across queries, those whose `chosen` has the most reward
make the pool, near-duplicates of better ones left out. Nothing is drawn here: the same candidates
always give the same pool.

Reference: RewardDS (arXiv 2502.18517), section 3.3: `alpha` · rank(reward) + (1 − `alpha`) ·
rank(−perplexity), then the best 1/k. Beyond it: a third rank by consensus (the default,
docs/decisions/0020-consensus-by-default.md), the removal of near-duplicates, and choosing and
selecting by less, which gives the baselines (docs/decisions/0013-curation-is-settings.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from protocol.errors import StageError
from server_side.config import ChooseBy, FilteringConfig, SelectBy, ThresholdRule
from server_side.diversity import DistinctTexts
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
        config: By what candidates are ordered.

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
    """Keep the best 1/k of the queries, or all of them, without near-duplicates.

    Args:
        pairs: One sample a query.
        config: By what queries are compared, `k`, the least number to keep, and how much alike
            two samples may be.

    Returns:
        The pool, a subset in the order of `pairs`. Of equal merit the one with the smaller
        `query_id` is kept first. Of near-duplicates the best is kept, and the next best query
        takes the other's place.

    Raises:
        StageError: There is nothing to select from.
    """
    if not pairs:
        raise StageError(
            "Expected queries to select from, found none. Raise synthesis.num_queries or "
            "synthesis.num_candidates."
        )
    size = len(pairs)
    if config.select_by != SelectBy.ALL:
        size = min(size, max(config.min_pool_size, math.ceil(size / config.k)))
    distinct = DistinctTexts(max_similarity=config.max_similarity)
    kept: set[str] = set()
    num_near_duplicates = 0
    for pair in best_first(pairs, config=config):
        if len(kept) == size:
            break
        if distinct.add(sample_text(pair)):
            kept.add(pair.query_id)
        else:
            num_near_duplicates += 1
    pool = tuple(replace(pair, joined_round=1) for pair in pairs if pair.query_id in kept)
    counts = {
        "num_pairs": len(pairs),
        "num_near_duplicates": num_near_duplicates,
        "num_below_threshold": len(pairs) - len(pool) - num_near_duplicates,
        "num_kept": len(pool),
    }
    return StageResult(values=pool, counts=counts)


def merit(sample: CuratedSample, *, config: FilteringConfig) -> float:
    """Return the figure by which queries are compared: more is better.

    Args:
        sample: A query's sample.
        config: Which figure, by `select_by`.

    Returns:
        Standardised reward of `chosen`, or its consensus in [0, 1]; the same for every sample where
        all are kept.
    """
    match SelectBy(config.select_by):
        case SelectBy.REWARD:
            return sample.chosen_reward
        case SelectBy.CONSENSUS:
            return sample.chosen_consensus
        case SelectBy.ALL:
            return 0.0


def best_first(samples: Sequence[CuratedSample], *, config: FilteringConfig) -> list[CuratedSample]:
    """Order samples by merit, equal ones by `query_id`."""
    return sorted(samples, key=lambda sample: (-merit(sample, config=config), sample.query_id))


def pool_threshold(
    pool: Sequence[CuratedSample], *, rule: ThresholdRule, config: FilteringConfig
) -> float:
    """Return the merit that a query must reach to join a pool.

    Args:
        pool: The pool before the round, at least one sample.
        rule: Whose merit in the pool it is, the lowest or the median one, or nobody's.
        config: By what queries are compared.

    Returns:
        The least merit that joins; minus infinity where every query does.
    """
    merits = [merit(sample, config=config) for sample in pool]
    match rule:
        case ThresholdRule.LOWEST:
            return min(merits)
        case ThresholdRule.MEDIAN:
            return statistics.median(merits)
        case ThresholdRule.NONE:
            return -math.inf


def sample_text(sample: CuratedSample) -> str:
    """Return what must not be nearly the same in two samples of a pool: what is tuned on."""
    return f"{sample.prompt}\n{sample.chosen}"


def rank_candidates(
    candidates: Sequence[ScoredCandidate], *, config: FilteringConfig
) -> list[ScoredCandidate]:
    """Order the candidates of one query from best to worst.

    Args:
        candidates: Scored candidates of one query.
        config: By what they are ordered.

    Returns:
        The candidates. Of equal scores, the one with more reward stands first where its rank has a
        weight, then the one that was written earlier.
    """
    scores = choice_scores(
        rewards=[item.reward for item in candidates],
        likelihoods=[-item.perplexity for item in candidates],
        consensus=[item.consensus for item in candidates],
        rounds=[item.candidate.round_index for item in candidates],
        config=config,
    )
    order = sorted(
        range(len(candidates)),
        key=lambda index: (-scores[index], candidates[index].candidate.round_index, index),
    )
    return [candidates[index] for index in order]


def choice_scores(
    *,
    rewards: Sequence[float],
    likelihoods: Sequence[float],
    consensus: Sequence[float],
    rounds: Sequence[int],
    config: FilteringConfig,
) -> list[float]:
    """Return the score of each response to one prompt by which the best is chosen.

    Args:
        rewards: Reward of each response.
        likelihoods: Likelihood of each under the generator, or what orders them as that does.
        consensus: Agreement of each with the prompt's other responses.
        rounds: Round in which each was written.
        config: By what they are ordered.

    Returns:
        One score a response; more is better, and of responses that would be alike that with more
        reward has more where its rank has a weight. Scores of different prompts do not compare.
    """
    scores: list[float]
    match ChooseBy(config.choose_by):
        case ChooseBy.RANKS:
            fused = [0.0] * len(rewards)
            for weight, judged in (
                (config.alpha, rewards),
                (1 - config.alpha, likelihoods),
                (config.consensus_weight, consensus),
            ):
                for index, rank in enumerate(average_ranks(judged)):
                    fused[index] += weight * rank
            # alpha * 2 + (1 - alpha) * 2 is not always 2
            scores = [round(score, 9) for score in fused]
        case ChooseBy.CONSENSUS:
            scores = list(consensus)
        case ChooseBy.FIRST:
            scores = [float(number) for number in rounds]
    ties = rewards if config.chooses_by_reward else [0.0] * len(scores)
    keys = list(zip(scores, ties, strict=True))
    place = {key: float(index) for index, key in enumerate(sorted(set(keys)))}
    return [place[key] for key in keys]


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
    """Put the first and the last of ranked candidates together as one query's sample.

    Args:
        ranked: Candidates of the query from best to worst, two or more.
        query: The query that they answer.
        instruction: The public description of its client's domain.

    Returns:
        The sample, which has not joined a pool yet.
    """
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
        chosen_consensus=best.consensus,
        chosen_origin=best.candidate.origin,
        chosen_lineage=best.candidate.lineage,
        prompt_origin=query.origin,
    )
