from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from protocol.errors import StageError
from server_side.config import FilteringConfig, ThresholdRule
from server_side.consensus import consensus_scores
from server_side.filtering import (
    average_ranks,
    choose_pairs,
    pool_threshold,
    rank_candidates,
    select_samples,
)
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    CuratedSample,
    PromptOrigin,
    Query,
    ScoredCandidate,
)
from tests.support.curated import curated


def scored(
    candidate_id: str,
    reward: float,
    perplexity: float,
    *,
    query_id: str = "q1",
    response: str = "",
    consensus: float = 0.0,
    round_index: int = 1,
    origin: CandidateOrigin = CandidateOrigin.GENERATOR,
    lineage: tuple[str, ...] = (),
) -> ScoredCandidate:
    return ScoredCandidate(
        candidate=Candidate(
            query_id=query_id,
            candidate_id=candidate_id,
            round_index=round_index,
            response=response or candidate_id,
            origin=origin,
            lineage=lineage,
        ),
        reward=reward,
        rewards_by_client={"clinic": reward},
        perplexity=perplexity,
        consensus=consensus,
    )


def ids(candidates: list[ScoredCandidate]) -> list[str]:
    return [item.candidate.candidate_id for item in candidates]


def lowest(pool: Sequence[CuratedSample]) -> float:
    return pool_threshold(pool, rule=ThresholdRule.LOWEST, config=FilteringConfig())


rewards = st.floats(-3, 3, allow_nan=False)
pools = st.lists(rewards, min_size=1, max_size=40).map(
    lambda values: [curated(f"q{index:03d}", value) for index, value in enumerate(values)]
)
shares = st.floats(1, 20)


def test_reward_and_likelihood_are_fused_by_rank() -> None:
    """Ranks (reward, −perplexity): a (3, 1), b (2, 3), c (1, 2).

    With alpha 0.5 they sum to 2, 2.5 and 1.5; with alpha 1 reward alone counts.
    """
    candidates = [scored("a", 9.0, 50.0), scored("b", 1.0, 2.0), scored("c", 0.0, 3.0)]

    assert ids(rank_candidates(candidates, config=FilteringConfig(alpha=0.5))) == ["b", "a", "c"]
    assert ids(rank_candidates(candidates, config=FilteringConfig(alpha=1.0))) == ["a", "b", "c"]
    assert ids(rank_candidates(candidates, config=FilteringConfig(alpha=0.0))) == ["b", "c", "a"]


def test_consensus_can_outweigh_the_rest() -> None:
    candidates = [
        scored("odd", 2.0, 2.0, consensus=0.0),
        scored("same", 1.0, 3.0, consensus=0.5),
        scored("like", 0.0, 4.0, consensus=0.4),
    ]

    ranked = rank_candidates(candidates, config=FilteringConfig(consensus_weight=5.0))

    assert ids(ranked)[-1] == "odd"


def test_tie_goes_to_the_greater_reward_then_to_the_earlier() -> None:
    candidates = [scored("a", 0.0, 1.0), scored("b", 1.0, 2.0), scored("c", 1.0, 2.0)]

    ranked = rank_candidates(candidates, config=FilteringConfig(alpha=0.5))

    assert ids(ranked) == ["b", "c", "a"]


def test_reward_without_weight_does_not_even_break_ties() -> None:
    """The second has more reward; the first was written earlier."""
    candidates = [scored("a", 0.0, 2.0), scored("b", 9.0, 2.0)]

    assert ids(rank_candidates(candidates, config=FilteringConfig(alpha=0.0))) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FilteringConfig(), True),
        (FilteringConfig(alpha=0.0), True),
        (FilteringConfig(alpha=0.0, select_by="consensus"), False),
        (FilteringConfig(choose_by="consensus", select_by="consensus"), False),
        (FilteringConfig(choose_by="first", select_by="all"), False),
        (FilteringConfig(choose_by="first", select_by="reward"), True),
    ],
)
def test_settings_say_whether_any_choice_looks_at_the_reward(
    config: FilteringConfig, expected: bool
) -> None:
    assert config.needs_reward is expected


@given(st.lists(rewards, min_size=1, max_size=8))
def test_ranks_do_not_depend_on_the_order_of_the_candidates(values: list[float]) -> None:
    order = list(range(len(values)))
    random.Random(0).shuffle(order)  # noqa: S311 - no secret

    ranks = average_ranks(values)

    assert average_ranks([values[i] for i in order]) == [ranks[i] for i in order]
    assert sum(ranks) == pytest.approx(len(values) * (len(values) + 1) / 2)


def test_consensus_alone_can_choose_and_asks_nothing_else() -> None:
    """Equal consensus goes to the earlier, however much more reward the later has."""
    candidates = [
        scored("a", 0.0, 9.0, consensus=0.2),
        scored("b", 9.0, 1.0, consensus=0.2),
        scored("c", -9.0, 99.0, consensus=0.3),
    ]

    ranked = rank_candidates(candidates, config=FilteringConfig(choose_by="consensus"))

    assert ids(ranked) == ["c", "a", "b"]


def test_unjudged_choice_takes_the_first_of_the_newest_round() -> None:
    candidates = [
        scored("a", 9.0, 1.0),
        scored("b", 5.0, 1.0, round_index=2),
        scored("c", 7.0, 1.0, round_index=2),
    ]

    ranked = rank_candidates(candidates, config=FilteringConfig(choose_by="first"))

    assert ids(ranked) == ["b", "c", "a"]
    assert ids(rank_candidates(candidates[:1], config=FilteringConfig(choose_by="first"))) == ["a"]


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join), max_size=5))
def test_consensus_is_mean_rouge_l_of_the_reference_implementation(responses: list[str]) -> None:
    scorer = RougeScorer(["rougeL"])
    panel = [scored(f"c{i}", 0.0, 1.0, response=r or " ") for i, r in enumerate(responses)]
    candidates = [item.candidate for item in panel]

    found = consensus_scores(candidates, panel=candidates)

    for index, own in enumerate(responses):
        others = responses[:index] + responses[index + 1 :]
        expected = [scorer.score(other, own)["rougeL"].fmeasure for other in others]
        assert found[index] == pytest.approx(sum(expected) / max(1, len(expected)))


def test_consensus_of_a_rewrite_leaves_out_what_it_was_rewritten_from() -> None:
    """A copy of its source agrees with the others exactly as the source does."""
    panel = [
        scored("a", 0.0, 1.0, response="rest and drink water").candidate,
        scored("b", 0.0, 1.0, response="rest and call us").candidate,
        scored("x", 0.0, 1.0, response="rest and drink water", query_id="q2").candidate,
    ]
    copy = dataclasses.replace(panel[0], candidate_id="r3", lineage=("a", "r2"), round_index=3)

    of_copy, of_source = consensus_scores([copy, panel[0]], panel=panel)

    assert of_copy == of_source == 0.5


def test_pair_carries_the_best_and_the_worst() -> None:
    query = Query(query_id="q1", prompt="cough", client_name="clinic", origin=PromptOrigin.PUBLIC)
    candidates = [
        scored("a", 0.0, 9.0, response="go", consensus=0.1, lineage=("x",)),
        scored("b", 1.0, 5.0, response="wait", consensus=0.2, lineage=("y",)),
        scored(
            "c", 2.0, 2.0, response="rest", consensus=0.3, lineage=("a", "z"), round_index=3,
            origin=CandidateOrigin.REWRITE,
        ),
    ]  # fmt: skip

    result = choose_pairs(
        candidates, queries=[query], instructions={"clinic": "Help."}, config=FilteringConfig()
    )

    assert result.values == (
        CuratedSample(
            query_id="q1",
            client_name="clinic",
            instruction="Help.",
            prompt="cough",
            chosen="rest",
            rejected="go",
            chosen_candidate_id="c",
            rejected_candidate_id="a",
            chosen_reward=2.0,
            rejected_reward=0.0,
            chosen_perplexity=2.0,
            round_index=3,
            chosen_consensus=0.3,
            chosen_origin=CandidateOrigin.REWRITE,
            chosen_lineage=("a", "z"),
            prompt_origin=PromptOrigin.PUBLIC,
        ),
    )


def test_best_share_is_kept_and_equal_rewards_go_by_query_id() -> None:
    pairs = [curated("q3", 1.0), curated("q2", 1.0), curated("q1", 0.0), curated("q4", 2.0)]

    result = select_samples(pairs, config=FilteringConfig(k=2))

    assert [sample.query_id for sample in result.values] == ["q2", "q4"]
    assert result.counts == {
        "num_pairs": 4,
        "num_near_duplicates": 0,
        "num_below_threshold": 2,
        "num_kept": 2,
    }
    assert lowest(result.values) == 1.0
    assert {sample.joined_round for sample in result.values} == {1}


def test_a_share_that_is_no_whole_number_is_rounded_up() -> None:
    pairs = [curated(f"q{i}", i) for i in range(9)]

    assert len(select_samples(pairs, config=FilteringConfig(k=2)).values) == 5


def test_consensus_can_select_queries() -> None:
    agreed = [
        dataclasses.replace(curated(f"q{i}", reward=i), chosen_consensus=1.0 - i / 10)
        for i in range(4)
    ]

    result = select_samples(agreed, config=FilteringConfig(k=2, select_by="consensus"))

    assert [sample.query_id for sample in result.values] == ["q0", "q1"]


def test_every_query_can_be_kept_whatever_its_reward() -> None:
    pairs = [curated(f"q{i}", reward=i) for i in range(9)]

    result = select_samples(pairs, config=FilteringConfig(k=8, select_by="all"))

    assert [sample.query_id for sample in result.values] == [pair.query_id for pair in pairs]


def test_near_duplicate_of_a_better_sample_makes_room_for_the_next() -> None:
    """The copy has more reward than q3, and the pool of two takes q3 all the same."""
    answer = " ".join(f"word{i}" for i in range(40))
    pairs = [
        dataclasses.replace(curated("q1", 2.0), prompt="My knee hurts.", chosen=answer),
        dataclasses.replace(curated("q2", 3.0), prompt="My knee hurts!", chosen=answer + " too"),
        dataclasses.replace(curated("q3", 1.0), prompt="I cough.", chosen="Drink water and rest."),
        dataclasses.replace(curated("q4", 0.0), prompt="I sneeze.", chosen="Stay home today."),
    ]

    strict = select_samples(pairs, config=FilteringConfig(k=2, max_similarity=0.8))
    loose = select_samples(pairs, config=FilteringConfig(k=2, max_similarity=1.0))

    assert [sample.query_id for sample in strict.values] == ["q2", "q3"]
    assert strict.counts["num_near_duplicates"] == 1
    assert [sample.query_id for sample in loose.values] == ["q1", "q2"]


@pytest.mark.parametrize(("rule", "threshold"), [("lowest", 0), ("median", 2), ("none", -math.inf)])
def test_threshold_of_a_pool_follows_its_rule(rule: str, threshold: float) -> None:
    pool = [curated(f"q{i}", reward) for i, reward in enumerate((0, 2, 7))]

    found = pool_threshold(pool, rule=ThresholdRule(rule), config=FilteringConfig())

    assert found == threshold


def test_pool_has_its_least_size() -> None:
    pairs = [curated(f"q{i}", i) for i in range(8)]

    assert len(select_samples(pairs, config=FilteringConfig(k=8, min_pool_size=3)).values) == 3
    assert len(select_samples(pairs, config=FilteringConfig(k=8, min_pool_size=99)).values) == 8


def test_nothing_to_select_from_is_one_clear_error() -> None:
    with pytest.raises(StageError, match="num_queries"):
        select_samples([], config=FilteringConfig())


@given(pools, shares)
def test_pool_is_a_subset_in_the_same_order(pairs: list[CuratedSample], k: float) -> None:
    pool = select_samples(pairs, config=FilteringConfig(k=k)).values

    assert pool
    outside = [dataclasses.replace(sample, joined_round=None) for sample in pool]
    assert outside == [sample for sample in pairs if sample in outside]


@given(pools, shares, shares)
def test_stricter_share_keeps_a_subset(pairs: list[CuratedSample], k: float, other: float) -> None:
    loose = select_samples(pairs, config=FilteringConfig(k=min(k, other))).values
    strict = select_samples(pairs, config=FilteringConfig(k=max(k, other))).values

    assert set(strict) <= set(loose)
    assert lowest(strict) >= lowest(loose)


@given(pools, shares)
def test_nobody_outside_has_more_reward_than_the_threshold(
    pairs: list[CuratedSample], k: float
) -> None:
    pool = select_samples(pairs, config=FilteringConfig(k=k)).values

    inside = {sample.query_id for sample in pool}
    assert all(
        sample.chosen_reward <= lowest(pool) for sample in pairs if sample.query_id not in inside
    )


def test_input_is_not_edited() -> None:
    pairs = [curated("q1", 1.0), curated("q2", 2.0)]
    before = [dataclasses.replace(sample) for sample in pairs]

    select_samples(pairs, config=FilteringConfig())

    assert pairs == before
