"""Whether the scores by which responses are chosen tell good responses from bad ones.

A reward proxy that knows a person's answer from a model's need not rank a model's answers. So, on
public test records, the generators answer each prompt several times, as in stage 8, every answer is
scored as in stage 9, and each score is asked for its favourite. What the favourite is worth is its
ROUGE-L to the reference, which no score has seen:

- `mean`: of all answers, what choosing blindly gives; `oracle`: of the best answer, the ceiling.
- `best`: of each score's favourite; `gain`: that less the mean, on the same prompts.
- `rank_correlation`: Spearman's coefficient of score and ROUGE-L within a prompt, averaged.
- `reward_accuracy`: how often the reference, a person's answer, gets more reward than an answer of
  the generators. A proxy may do well here and still rank no better than chance.

Scores: `reward`, `likelihood` under the generator, `consensus`, and `choice`, by which filtering
chooses as it is set up. The first three do not depend on how filtering is set up, and `choice` is
made of them afterwards, so runs that differ in filtering alone share the answers.

Intervals are bootstraps over prompts (`server_side/measuring/intervals.py`). ROUGE-L of one answer
against one reference is a noisy judge: read the intervals, and use many prompts.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from lm.errors import LmError
from lm.tables import TextRow
from protocol.errors import StageError
from server_side.config import (
    EvaluationConfig,
    FilteringConfig,
    ScoringConfig,
    SynthesisConfig,
)
from server_side.consensus import rouge_l, split_words
from server_side.filtering import average_ranks, choice_scores
from server_side.measuring.intervals import Interval, bootstrap_interval, ratio_of_sums
from server_side.proxies import GeneratorProxy, RewardProxy
from server_side.reward_scaling import RewardScale
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    OnProgress,
    Query,
    ScoredCandidate,
    StageResult,
)
from server_side.scoring import score_candidates
from server_side.synthesis import client_quotas, propose_candidates

_LOGGER = logging.getLogger(__name__)
RANKING_STAGE = "13_ranking"
"""Under what name the stage stands in the run folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedPrompt:
    """One test prompt's answers, as the scores see them and as the reference does."""

    query_id: str
    """Name of the prompt."""
    client_name: str
    """Client whose generator answered it."""
    rouge_l: tuple[float, ...]
    """ROUGE-L of each answer to the reference; two answers or more."""
    scores: Mapping[str, tuple[float, ...]]
    """Each answer's reward, likelihood and consensus, by that name; more is better."""
    reference_reward: float
    """Reward of the reference, on the scale of `scores["reward"]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreQuality:
    """How well one score ranks."""

    best: Interval
    """ROUGE-L of the answer that it puts first."""
    gain: Interval
    """The same less that of a prompt's mean answer."""
    rank_correlation: Interval
    """Spearman's coefficient with ROUGE-L within a prompt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingQuality:
    """How well each score ranks, between what chance and what hindsight would give."""

    num_prompts: int
    """Prompts with two answers or more."""
    num_candidates: int
    """Answers to all of them."""
    mean: Interval
    """ROUGE-L of a prompt's mean answer."""
    oracle: Interval
    """ROUGE-L of a prompt's best answer."""
    reward_accuracy: Interval
    """Share of a prompt's answers that get less reward than the reference; equal ones are half."""
    scores: Mapping[str, ScoreQuality]
    """By name of the score."""


def judge_ranking(
    rows: Sequence[TextRow],
    *,
    generators: Sequence[GeneratorProxy],
    reward_proxies: Sequence[RewardProxy],
    scales: Mapping[str, RewardScale],
    synthesis: SynthesisConfig,
    scoring: ScoringConfig,
    seed: int,
    on_progress: OnProgress,
) -> StageResult[RankedPrompt]:
    """Let the generators answer test prompts, score the answers, and compare with the references.

    Args:
        rows: Public test records.
        generators: One generator a client; they share the prompts as they do in synthesis.
        reward_proxies: One reward proxy a client.
        scales: Scale of each client's rewards, from the run's own round 1.
        synthesis: How answers are sampled; the run's own settings.
        scoring: How they are scored; the run's own settings.
        seed: Seed of the draws.
        on_progress: Told how far it is.

    Returns:
        One value a prompt that has two usable answers or more; where there is nothing to rank by or
        nothing to rank, that is logged and there is none.
    """
    try:
        return _judge_ranking(
            rows,
            generators,
            reward_proxies=reward_proxies,
            scales=scales,
            synthesis=synthesis,
            scoring=scoring,
            seed=seed,
            on_progress=on_progress,
        )
    except (StageError, LmError) as error:  # a tuned target is not to be lost over a figure
        _LOGGER.warning("The ranking is not judged: %s", error)
        return StageResult(values=(), counts={"num_queries": len(rows), "num_prompts": 0})


def _judge_ranking(
    rows: Sequence[TextRow],
    generators: Sequence[GeneratorProxy],
    *,
    reward_proxies: Sequence[RewardProxy],
    scales: Mapping[str, RewardScale],
    synthesis: SynthesisConfig,
    scoring: ScoringConfig,
    seed: int,
    on_progress: OnProgress,
) -> StageResult[RankedPrompt]:
    if not scales:
        raise StageError("Expected a reward to rank by, found that every reward proxy is left out.")
    synthesis = dataclasses.replace(synthesis, num_queries=len(rows))
    names = [generator.client_name for generator in generators]
    quotas = client_quotas(names, synthesis, num_queries=len(rows))
    owners = [name for name, quota in quotas.items() for _ in range(quota)]
    order = np.random.default_rng(seed).permutation(len(rows))  # rows may lie in order of topics
    queries = [
        Query(query_id=f"t{number:06d}", prompt=row.prompt, client_name=owners[place])
        for number, (row, place) in enumerate(zip(rows, order, strict=True), start=1)
    ]
    half = len(rows) * synthesis.num_candidates
    proposed = propose_candidates(
        queries,
        generators,
        config=synthesis,
        seed=seed,
        on_progress=lambda done, _: on_progress(done, 2 * half),
    )
    judge = partial(
        score_candidates,
        panel=proposed.values,
        queries=queries,
        generators=generators,
        reward_proxies=reward_proxies,
        scales=scales,
        config=scoring,
    )
    scored = judge(
        proposed.values,
        on_progress=lambda done, of: on_progress(half + half * done // max(1, of), 2 * half),
    )
    # Apart, so that the figures about rewards speak of the generators' answers alone.
    references = judge(
        [_as_candidate(query, row) for query, row in zip(queries, rows, strict=True)],
        on_progress=lambda *_: None,
    )
    prompts = tuple(
        _ranked_prompts(
            scored.values,
            references.values,
            client_names={query.query_id: query.client_name for query in queries},
        )
    )
    counts = {**proposed.counts, "num_prompts": len(prompts)}
    return StageResult(values=prompts, counts=counts, figures=scored.figures)


def ranking_quality(
    prompts: Sequence[RankedPrompt],
    *,
    filtering: FilteringConfig,
    config: EvaluationConfig,
    seed: int,
) -> RankingQuality:
    """Sum up how well each score ranks, that by which filtering chooses among them.

    Args:
        prompts: What `judge_ranking` returned; at least one.
        filtering: How filtering chooses.
        config: Number of resamples and confidence level.
        seed: Seed of the bootstrap.

    Returns:
        Means over prompts with their intervals.
    """

    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_interval(
            np.array([(value, 1.0) for value in values]),
            ratio_of_sums,
            num_resamples=config.num_resamples,
            confidence_level=config.confidence_level,
            seed=seed,
        )

    means = [statistics.fmean(prompt.rouge_l) for prompt in prompts]
    judged = [_with_choice(prompt.scores, filtering=filtering) for prompt in prompts]
    scores = {}
    for name in judged[0]:
        pairs = [(own[name], prompt.rouge_l) for own, prompt in zip(judged, prompts, strict=True)]
        best = [best_of(scores=own, worth=worth) for own, worth in pairs]
        scores[name] = ScoreQuality(
            best=interval(best),
            gain=interval([b - mean for b, mean in zip(best, means, strict=True)]),
            rank_correlation=interval([rank_correlation(own, worth) for own, worth in pairs]),
        )
    return RankingQuality(
        num_prompts=len(prompts),
        num_candidates=sum(len(prompt.rouge_l) for prompt in prompts),
        mean=interval(means),
        oracle=interval([max(prompt.rouge_l) for prompt in prompts]),
        reward_accuracy=interval(
            [share_below(prompt.scores["reward"], prompt.reference_reward) for prompt in prompts]
        ),
        scores=scores,
    )


def best_of(*, scores: Sequence[float], worth: Sequence[float]) -> float:
    """Return what the answer with the highest score is worth; of equal scores, their mean.

    Args:
        scores: Score of each answer to one prompt, at least one.
        worth: What each answer is worth, in the same order.

    Returns:
        A worth, or the mean of several.

    >>> best_of(scores=[1.0, 3.0, 3.0], worth=[0.9, 0.2, 0.4])
    0.30000000000000004
    """
    top = max(scores)
    return statistics.fmean(w for score, w in zip(scores, worth, strict=True) if score == top)


def share_below(scores: Sequence[float], bar: float) -> float:
    """Return the share of scores that lie below a bar; those on it count half.

    Args:
        scores: Score of each answer to one prompt, at least one.
        bar: Score of the reference, on the same scale.

    Returns:
        A share in [0, 1]; 1 where the reference has more than every answer.

    >>> share_below([1.0, 2.0, 3.0, 4.0], 3.0)
    0.625
    """
    return statistics.fmean(1.0 if score < bar else 0.5 * (score == bar) for score in scores)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's coefficient of two scores of the same answers; equal ones share a rank.

    Args:
        first: One score.
        second: The other.

    Returns:
        A number in [−1, 1]; 0 where either score is the same for all, since it ranks nothing.

    >>> rank_correlation([1, 2, 3], [0.1, 0.7, 0.3])
    0.5
    """
    ranks = [average_ranks(scores) for scores in (first, second)]
    middle = (len(first) + 1) / 2
    x, y = ([rank - middle for rank in own] for own in ranks)
    spread = math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / spread if spread > 0 else 0.0


def _with_choice(
    scores: Mapping[str, Sequence[float]], *, filtering: FilteringConfig
) -> dict[str, Sequence[float]]:
    """Return one prompt's scores and the one that filtering makes of them."""
    choice = choice_scores(
        rewards=scores["reward"],
        likelihoods=scores["likelihood"],
        consensus=scores["consensus"],
        rounds=[1] * len(scores["reward"]),  # nothing here is rewritten
        config=filtering,
    )
    return {**scores, "choice": choice}


def _as_candidate(query: Query, row: TextRow) -> Candidate:
    # A person wrote it; who did does not enter into a score.
    return Candidate(
        query_id=query.query_id,
        candidate_id=f"{query.query_id}-reference",
        round_index=1,
        response=row.response,
        origin=CandidateOrigin.GENERATOR,
    )


def _ranked_prompts(
    scored: Sequence[ScoredCandidate],
    references: Sequence[ScoredCandidate],
    *,
    client_names: Mapping[str, str],
) -> Iterator[RankedPrompt]:
    by_id = {item.candidate.query_id: item for item in references}
    for query_id, group in groupby(scored, key=lambda item: item.candidate.query_id):
        own = list(group)
        reference = split_words(by_id[query_id].candidate.response)
        yield RankedPrompt(
            query_id=query_id,
            client_name=client_names[query_id],
            rouge_l=tuple(rouge_l(reference, split_words(item.candidate.response)) for item in own),
            scores={
                "reward": tuple(item.reward for item in own),
                "likelihood": tuple(-item.perplexity for item in own),
                "consensus": tuple(item.consensus for item in own),
            },
            reference_reward=by_id[query_id].reward,
        )
