"""Stage 12, Self-Optimizing Refinement: feedback, rewriting by the target, and judging again.

In each round after the first, a model says what makes a query's `chosen` better than its
`rejected`, the current target rewrites `chosen` in the light of that, and the rewrites are scored
like any candidates (stage 9). The previous `chosen` stays a candidate, so where reward alone ranks
no round lowers a query's reward. A query whose best reaches the pool's threshold, as published the
lowest reward in it, joins it.

Reference: RewardDS (arXiv 2502.18517), section 3.4.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from lm.sampling import Completion, SamplingParams
from protocol.errors import StageError
from protocol.prompts import Chat, feedback_chat, rewrite_chat
from server_side.config import (
    FeedbackWriter,
    FilteringConfig,
    PoolGrowth,
    RefinementConfig,
    ThresholdRule,
    WhenCut,
)
from server_side.diversity import DistinctTexts
from server_side.filtering import (
    best_first,
    make_pair,
    merit,
    pool_threshold,
    rank_candidates,
    sample_text,
)
from server_side.progress import shifted
from server_side.proxies import GeneratorProxy, Writer, sampling_params
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    CuratedSample,
    Feedback,
    OnProgress,
    Query,
    ScoredCandidate,
    StageResult,
)
from server_side.seeds import derive_seed
from server_side.synthesis import number_candidates, usable_responses

__all__ = [
    "choose_again",
    "grow_pool",
    "refine_samples",
    "samples_to_refine",
    "write_feedback",
]

_LOGGER = logging.getLogger(__name__)
_PLAIN_ADVICE = "Be more specific, correct and complete, and answer every part of the question."
"""What stands for feedback where nobody is asked for it, or nothing usable came."""


def samples_to_refine(
    best: Sequence[CuratedSample],
    *,
    pool: Sequence[CuratedSample],
    filtering: FilteringConfig,
    config: RefinementConfig,
    seed: int,
) -> tuple[CuratedSample, ...]:
    """Return the samples that this round rewrites: all that may change the pool, or its edge.

    Rewriting the best alone would let nobody join, for they are in the pool; so half of a bounded
    round goes to the members that are weakest, half to the outsiders that are nearest to joining.
    Near-duplicates of members stay outside whatever their merit, so they come after all others.
    Where nobody may join, outsiders are not rewritten, and members are not where none is renewed.
    Among equals, which all are where nothing is judged, it is drawn who is rewritten.

    Args:
        best: Each query's best sample so far.
        pool: The pool before this round, of some of these queries.
        filtering: By what queries are compared, and how much alike two samples may be.
        config: How many to rewrite at most, and how the pool may grow.
        seed: Seed of the draw; another in each round, or the same few would be rewritten again.

    Returns:
        The samples, in the order of `best`. Where one side has fewer than its half, the other
        gives more. There may be none: then the round changes nothing.
    """
    growth = PoolGrowth(config.pool_growth)
    member_ids = {sample.query_id for sample in pool}
    distinct = DistinctTexts(max_similarity=filtering.max_similarity)
    for sample in pool:
        distinct.add(sample_text(sample))
    members, outsiders, near_duplicates = [], [], []
    # By their ids the same end of the list would always be chosen, and with it one client.
    drawn = sorted(best, key=lambda sample: derive_seed(seed, sample.query_id))
    for sample in sorted(drawn, key=lambda sample: -merit(sample, config=filtering)):
        if sample.query_id in member_ids:
            members.append(sample)
        elif distinct.add(sample_text(sample)):
            outsiders.append(sample)
        else:
            near_duplicates.append(sample)
    members = [] if growth is PoolGrowth.JOIN else members
    outsiders = [] if growth is PoolGrowth.RENEW else [*outsiders, *near_duplicates]
    count = len(members) + len(outsiders)
    count = count if config.max_queries is None else min(config.max_queries, count)
    num_outsiders = min(len(outsiders), max(count // 2, count - len(members)))
    num_members = count - num_outsiders
    rewritten = members[len(members) - num_members :] + outsiders[:num_outsiders]
    kept = {sample.query_id for sample in rewritten}
    return tuple(sample for sample in best if sample.query_id in kept)


def write_feedback(
    samples: Sequence[CuratedSample],
    *,
    generators: Sequence[GeneratorProxy],
    target: Writer,
    config: RefinementConfig,
    seed: int,
    on_progress: OnProgress,
) -> StageResult[Feedback]:
    """Ask a model what makes each sample's `chosen` better than its `rejected`.

    Args:
        samples: What to compare.
        generators: One generator a client; each writes about its own client's samples.
        target: The current target, where it is the one to write.
        config: Who writes, and how it is drawn.
        seed: Seed of the draws.
        on_progress: Told how much feedback is written, of how much.

    Returns:
        Feedback on each sample, in the same order. Feedback that was cut at its greatest length
        is used as it is; where none came, a fixed sentence takes its place.
    """
    writers: list[tuple[Writer, list[CuratedSample]]]
    match FeedbackWriter(config.feedback_writer):
        case FeedbackWriter.NONE:
            writers = []
        case FeedbackWriter.TARGET:
            writers = [(target, list(samples))]
        case FeedbackWriter.GENERATOR:
            writers = [
                (generator, [s for s in samples if s.client_name == generator.client_name])
                for generator in generators
            ]
    counts = Counter(num_samples=len(samples))
    texts: dict[str, str] = {}
    for writer, own in writers:
        if not own:
            continue
        completions = _continue_chats(
            writer,
            [
                feedback_chat(
                    instruction=s.instruction, prompt=s.prompt, chosen=s.chosen, rejected=s.rejected
                )
                for s in own
            ],
            sampling_params(config.feedback_sampling),
            engine=config.engine,
            seed=derive_seed(seed, own[0].client_name),
            on_progress=shifted(on_progress, offset=len(texts), total=len(samples)),
        )
        for sample, (completion,) in zip(own, completions, strict=True):
            counts["num_cut"] += not completion.is_finished
            texts[sample.query_id] = completion.text.strip()
    counts["num_plain_advice"] = sum(not texts.get(sample.query_id) for sample in samples)
    feedback = tuple(
        Feedback(query_id=s.query_id, text=texts.get(s.query_id) or _PLAIN_ADVICE) for s in samples
    )
    return StageResult(values=feedback, counts=counts)


def refine_samples(
    samples: Sequence[CuratedSample],
    feedback: Sequence[Feedback],
    *,
    target: Writer,
    config: RefinementConfig,
    round_index: int,
    seed: int,
    on_progress: OnProgress,
) -> StageResult[Candidate]:
    """Let the current target rewrite each sample's `chosen` in several ways.

    Args:
        samples: What to rewrite.
        feedback: Feedback on each sample, in the same order.
        target: The current target.
        config: How many rewrites, how drawn, and which lengths pass.
        round_index: The round, from 2.
        seed: Seed of the draws.
        on_progress: Told how many rewrites were sampled, of how many.

    Returns:
        Ended rewrites that differ from `chosen` and from one another, in the order of samples.
        There may be none: then the round changes nothing, which is logged.

    Raises:
        StageError: The feedback is on other samples.
    """
    if [sample.query_id for sample in samples] != [item.query_id for item in feedback]:
        # An earlier version chose others among equals; their feedback says nothing about these.
        raise StageError(
            "Expected feedback on the samples that this round rewrites, found it on others, which "
            "another version of this software wrote. Go on with that version, or begin a new run."
        )
    completions = _continue_chats(
        target,
        [
            rewrite_chat(
                instruction=s.instruction, prompt=s.prompt, response=s.chosen, feedback=f.text
            )
            for s, f in zip(samples, feedback, strict=True)
        ],
        sampling_params(config.rewrite_sampling, num_candidates=config.num_candidates),
        engine=config.engine,
        seed=seed,
        on_progress=on_progress,
    )
    counts = Counter(num_samples=len(samples), num_sampled=0)
    candidates: list[Candidate] = []
    for sample, drawn in zip(samples, completions, strict=True):
        texts = usable_responses(
            drawn,
            min_words=config.min_response_words,
            when_cut=WhenCut(config.when_cut),
            counts=counts,
            known=[sample.chosen],
        )
        counts["num_samples_without_rewrite"] += not texts
        candidates += number_candidates(
            texts,
            query_id=sample.query_id,
            round_index=round_index,
            origin=CandidateOrigin.REWRITE,
            lineage=(*sample.chosen_lineage, sample.chosen_candidate_id),
        )
    if samples and not candidates:
        _LOGGER.warning(
            "Round %d: none of %d rewrites ended and was new; the pool stays as it is. Raise "
            "refinement.rewrite_sampling.max_new_tokens.",
            round_index,
            counts["num_sampled"],
        )
    return StageResult(values=tuple(candidates), counts={**counts, "num_kept": len(candidates)})


def choose_again(
    best: Sequence[CuratedSample],
    scored: Sequence[ScoredCandidate],
    *,
    queries: Sequence[Query],
    config: FilteringConfig,
) -> StageResult[CuratedSample]:
    """Find each query's best and worst response anew, among its rewrites and its `chosen`.

    Args:
        best: Each query's best sample before this round.
        scored: This round's scored rewrites, those of one query next to one another.
        queries: The queries that they answer.
        config: By what candidates are ordered.

    Returns:
        Each query's best sample, in the order of `best`; one without rewrites stays as it is.
    """
    by_id: Mapping[str, Query] = {query.query_id: query for query in queries}
    rewrites = {
        query_id: list(group)
        for query_id, group in groupby(scored, key=lambda item: item.candidate.query_id)
    }
    counts = Counter(num_pairs=len(best), num_replaced=0)
    chosen: list[CuratedSample] = []
    for sample in best:
        own = rewrites.get(sample.query_id)
        if not own:
            chosen.append(sample)
            continue
        ranked = rank_candidates([_as_candidate(sample), *own], config=config)
        pair = make_pair(ranked, by_id[sample.query_id], instruction=sample.instruction)
        counts["num_replaced"] += pair.chosen_candidate_id != sample.chosen_candidate_id
        chosen.append(pair)
    return StageResult(values=tuple(chosen), counts=counts)


def grow_pool(
    *,
    pool: Sequence[CuratedSample],
    best: Sequence[CuratedSample],
    filtering: FilteringConfig,
    config: RefinementConfig,
    round_index: int,
) -> StageResult[CuratedSample]:
    """Let every query whose best reaches the pool's threshold join it or renew its sample there.

    Args:
        pool: The pool before this round.
        best: Each query's best sample after it.
        filtering: By what queries are compared, and how much alike two samples may be.
        config: The threshold, and whether queries join, renew their sample, or both.
        round_index: The round, from 2.

    Returns:
        The new pool, in the order of `best`. No sample leaves it, and its lowest merit never falls
        where the threshold is that. Whoever would join but is nearly the same as a member
        after this round stays outside; a member's renewal is not compared, because its prompt is
        there already.
    """
    threshold = pool_threshold(pool, rule=ThresholdRule(config.threshold), config=filtering)
    growth = PoolGrowth(config.pool_growth)
    members = {sample.query_id: sample for sample in pool}
    counts = Counter(num_pairs=len(best), num_joined=0, num_renewed=0)
    distinct = DistinctTexts(max_similarity=filtering.max_similarity)
    grown: dict[str, CuratedSample] = {}
    for sample in best:
        member = members.get(sample.query_id)
        if member is None:
            continue
        if growth is PoolGrowth.JOIN or merit(sample, config=filtering) < threshold:
            grown[sample.query_id] = member
        else:
            grown[sample.query_id] = replace(sample, joined_round=member.joined_round)
            counts["num_renewed"] += member.chosen_candidate_id != sample.chosen_candidate_id
    # Who joins is compared with what the members say now, not with what they said before.
    for sample in grown.values():
        distinct.add(sample_text(sample))
    for sample in best_first(best, config=filtering):
        if sample.query_id in members:
            continue
        if merit(sample, config=filtering) < threshold:
            counts["num_below_threshold"] += 1
        elif growth is PoolGrowth.RENEW:
            counts["num_not_taken_in"] += 1
        elif not distinct.add(sample_text(sample)):
            counts["num_near_duplicates"] += 1
        else:
            grown[sample.query_id] = replace(sample, joined_round=round_index)
            counts["num_joined"] += 1
    values = tuple(grown[sample.query_id] for sample in best if sample.query_id in grown)
    return StageResult(values=values, counts={**counts, "num_kept": len(values)})


def _continue_chats(
    writer: Writer,
    chats: Sequence[Chat],
    params: SamplingParams,
    *,
    engine: str,
    seed: int,
    on_progress: OnProgress,
) -> list[list[Completion]]:
    if not chats:
        return []  # and no model is loaded
    prefixes = [writer.chat_prefix(chat) for chat in chats]
    with writer.sampler(engine=engine) as sampler:
        return sampler.sample(prefixes, params, seed=seed, on_progress=on_progress)


def _as_candidate(sample: CuratedSample) -> ScoredCandidate:
    return ScoredCandidate(
        candidate=Candidate(
            query_id=sample.query_id,
            candidate_id=sample.chosen_candidate_id,
            round_index=sample.round_index,
            response=sample.chosen,
            origin=sample.chosen_origin,
            lineage=sample.chosen_lineage,
        ),
        reward=sample.chosen_reward,
        rewards_by_client={},
        perplexity=sample.chosen_perplexity,
        consensus=sample.chosen_consensus,
    )
