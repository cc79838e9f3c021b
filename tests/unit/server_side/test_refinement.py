from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.sampling import SamplingParams
from server_side.config import FilteringConfig, RefinementConfig, SamplingConfig, ThresholdRule
from server_side.filtering import pool_threshold, select_samples
from server_side.refinement import (
    choose_again,
    grow_pool,
    refine_samples,
    write_feedback,
)
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    CuratedSample,
    Feedback,
    Query,
    StageResult,
)
from tests.support.curated import curated, rewrite
from tests.support.fake_proxies import CUT, FakeProxies, no_progress

rewards = st.floats(-3, 3, allow_nan=False)


def grow(
    pool: Sequence[CuratedSample], best: Sequence[CuratedSample], **settings: str
) -> StageResult[CuratedSample]:
    return grow_pool(
        pool=pool,
        best=best,
        filtering=FilteringConfig(),
        config=RefinementConfig(**settings),  # type: ignore[arg-type]
        round_index=2,
    )


def lowest(pool: Sequence[CuratedSample]) -> float:
    return pool_threshold(pool, rule=ThresholdRule.LOWEST, config=FilteringConfig())


def queries_of(samples: list[CuratedSample]) -> list[Query]:
    return [Query(query_id=s.query_id, prompt=s.prompt, client_name=s.client_name) for s in samples]


def refine(
    samples: list[CuratedSample], target: FakeProxies, **settings: int | str
) -> tuple[tuple[Candidate, ...], dict[str, int]]:
    result = refine_samples(
        samples,
        [Feedback(query_id=s.query_id, text=f"advice for {s.query_id}") for s in samples],
        target=target,
        config=RefinementConfig(**settings),  # type: ignore[arg-type]
        round_index=2,
        seed=0,
        on_progress=no_progress,
    )
    return result.values, dict(result.counts)


FIVE = [curated(f"q{number}", reward) for number, reward in enumerate((0.0, 4.0, 3.0, 1.0, 2.0))]


def test_generator_of_the_own_client_writes_feedback() -> None:
    clinic, target = FakeProxies("clinic"), FakeProxies("target")

    feedback = write_feedback(
        [curated("q1", 1.0)],
        generators=[FakeProxies("other"), clinic],
        target=target,
        config=RefinementConfig(),
        seed=0,
        on_progress=no_progress,
    ).values

    assert "good" in clinic.asked[0]
    assert "bad" in clinic.asked[0]
    assert target.asked == []
    assert feedback[0].query_id == "q1"


def test_target_or_nobody_can_write_feedback() -> None:
    clinic, target = FakeProxies("clinic"), FakeProxies("target")
    results = [
        write_feedback(
            [curated("q1", 1.0)],
            generators=[clinic],
            target=target,
            config=RefinementConfig(feedback_writer=writer),
            seed=0,
            on_progress=no_progress,
        )
        for writer in ("target", "none")
    ]

    assert clinic.asked == []
    assert len(target.asked) == 1
    assert results[1].counts["num_plain_advice"] == 1
    assert results[1].values[0].text


def test_feedback_that_says_nothing_is_replaced() -> None:
    clinic = FakeProxies("clinic", write=lambda text, rng: "  ")

    result = write_feedback(
        [curated("q1", 1.0)],
        generators=[clinic],
        target=clinic,
        config=RefinementConfig(),
        seed=0,
        on_progress=no_progress,
    )

    assert result.values[0].text.strip()
    assert result.counts["num_plain_advice"] == 1


def test_target_rewrites_the_chosen_response_in_the_light_of_feedback() -> None:
    target = FakeProxies("target")

    candidates, counts = refine([curated("q1", 1.0)], target, num_candidates=3)

    assert "good" in target.asked[0]
    assert "advice for q1" in target.asked[0]
    assert [c.candidate_id for c in candidates] == ["q1-r2-c1", "q1-r2-c2", "q1-r2-c3"]
    assert {c.origin for c in candidates} == {CandidateOrigin.REWRITE}
    assert {c.lineage for c in candidates} == {("q1-r1-c1",)}
    assert counts["num_kept"] == 3


def test_rewrite_that_repeats_the_chosen_response_falls() -> None:
    texts = iter(["Good", "not the same", None])
    target = FakeProxies("target", write=lambda text, rng: next(texts))

    candidates, counts = refine(
        [curated("q1", 1.0)], target, num_candidates=3, min_response_words=1
    )

    assert [c.response for c in candidates] == ["not the same"]
    assert (counts["num_repeated"], counts["num_unfinished"]) == (1, 1)


def test_a_cut_rewrite_may_end_with_its_last_whole_sentence() -> None:
    texts = iter([f"Rest a lot. And{CUT}", None])
    target = FakeProxies("target", write=lambda text, rng: next(texts))

    candidates, counts = refine([curated("q1", 1.0)], target, num_candidates=2, when_cut="trim")

    assert [c.response for c in candidates] == ["Rest a lot."]
    assert (counts["num_trimmed"], counts["num_unfinished"]) == (1, 1)


def test_round_without_a_usable_rewrite_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    best = [curated("q1", 1.0)]

    candidates, counts = refine(best, FakeProxies("target", write=lambda text, rng: None))
    again = choose_again(best, [], queries=queries_of(best), config=FilteringConfig()).values

    assert candidates == ()
    assert counts["num_samples_without_rewrite"] == 1
    assert "max_new_tokens" in caplog.text
    assert again == tuple(best)


def test_better_rewrite_replaces_the_chosen_response() -> None:
    best = [curated("q1", 1.0), curated("q2", 1.0)]
    scored = [rewrite("q1", 1, 2.0, 1.0), rewrite("q1", 2, 0.0, 9.0)]

    again = choose_again(best, scored, queries=queries_of(best), config=FilteringConfig())

    first, second = again.values
    assert (first.chosen, first.rejected, first.round_index) == ("rewrite 1", "rewrite 2", 2)
    assert second == best[1]
    assert again.counts == {"num_pairs": 2, "num_replaced": 1}


def test_equal_rewrite_does_not_replace_the_chosen_response() -> None:
    best = [curated("q1", 1.0)]

    again = choose_again(
        best, [rewrite("q1", 1, 1.0)], queries=queries_of(best), config=FilteringConfig()
    )

    assert again.values[0].chosen == best[0].chosen


@given(st.lists(st.tuples(rewards, st.lists(rewards, max_size=4)), min_size=1, max_size=10))
def test_round_never_lowers_a_reward_where_reward_alone_ranks(
    rows: list[tuple[float, list[float]]],
) -> None:
    best = [curated(f"q{i}", reward) for i, (reward, _) in enumerate(rows)]
    scored = [
        rewrite(f"q{i}", n, reward)
        for i, (_, own) in enumerate(rows)
        for n, reward in enumerate(own)
    ]

    again = choose_again(
        best, scored, queries=queries_of(best), config=FilteringConfig(alpha=1.0)
    ).values

    assert all(new.chosen_reward >= old.chosen_reward for new, old in zip(again, best, strict=True))
    assert [sample.query_id for sample in again] == [sample.query_id for sample in best]


def test_pool_takes_who_reaches_its_threshold_and_renews_members() -> None:
    pool = [curated("q1", 2.0), curated("q2", 1.0)]
    renewed = rewrite("q1", 1, 3.0, 1.0)
    best_before = [*pool, curated("q3", 0.0), curated("q4", 0.5)]
    best = choose_again(
        best_before,
        [renewed, rewrite("q3", 1, 1.0, 1.0), rewrite("q4", 1, 0.9, 1.0)],
        queries=queries_of(best_before),
        config=FilteringConfig(),
    ).values

    grown = grow(pool, best)

    assert [(s.query_id, s.chosen_reward) for s in grown.values] == [
        ("q1", 3.0),
        ("q2", 1.0),
        ("q3", 1.0),
    ]
    assert grown.counts == {
        "num_pairs": 4,
        "num_joined": 1,
        "num_renewed": 1,
        "num_below_threshold": 1,
        "num_kept": 3,
    }


def test_member_whose_new_best_falls_below_the_threshold_stays_as_it_was() -> None:
    pool = [curated("q1", 2.0)]

    assert grow(pool, [curated("q1", 1.0)]).values == tuple(pool)


@given(
    st.lists(st.tuples(rewards, rewards), min_size=1, max_size=30),
    st.floats(1, 10),
)
def test_pool_loses_nobody_and_its_threshold_never_falls(
    rows: list[tuple[float, float]], k: float
) -> None:
    before = [curated(f"q{i:02d}", old) for i, (old, _) in enumerate(rows)]
    after = [curated(f"q{i:02d}", new) for i, (_, new) in enumerate(rows)]
    pool = select_samples(before, config=FilteringConfig(k=k)).values

    grown = grow(pool, after).values

    assert {s.query_id for s in pool} <= {s.query_id for s in grown}
    assert lowest(grown) >= lowest(pool)


def pool_and_best() -> tuple[list[CuratedSample], list[CuratedSample]]:
    """A pool of q1, q2 and q3 at 2, 1 and 4; renewed to 3, 1.5 and 4; q4 at 1 and q5 at 9."""
    pool = [
        replace(curated(f"q{i}", reward), joined_round=1)
        for i, reward in ((1, 2.0), (2, 1.0), (3, 4.0))
    ]
    after = ((1, 3.0), (2, 1.5), (3, 4.0), (4, 1.0), (5, 9.0))
    best = [
        replace(curated(f"q{i}", reward), chosen_candidate_id=f"q{i}-r2-c1") for i, reward in after
    ]
    return pool, best


@pytest.mark.parametrize(
    ("settings", "rewards_in_pool"),
    [
        ({}, [3.0, 1.5, 4.0, 1.0, 9.0]),
        ({"threshold": "median"}, [3.0, 1.0, 4.0, 9.0]),
        ({"threshold": "none"}, [3.0, 1.5, 4.0, 1.0, 9.0]),
        ({"pool_growth": "join"}, [2.0, 1.0, 4.0, 1.0, 9.0]),
        ({"pool_growth": "renew"}, [3.0, 1.5, 4.0]),
    ],
)
def test_threshold_and_growth_are_settings(
    settings: dict[str, str], rewards_in_pool: list[float]
) -> None:
    pool, best = pool_and_best()

    grown = grow(pool, best, **settings)

    assert [sample.chosen_reward for sample in grown.values] == rewards_in_pool
    assert grown.counts["num_kept"] == len(rewards_in_pool)


def test_threshold_is_the_figure_that_selects() -> None:
    """By reward q2 would join and q3 would not; by consensus it is the other way round."""
    pool = [replace(curated("q1", 1.0), chosen_consensus=0.5)]
    best = [
        *pool,
        replace(curated("q2", 2.0), chosen_consensus=0.4),
        replace(curated("q3", 0.0), chosen_consensus=0.6),
    ]

    grown = grow_pool(
        pool=pool,
        best=best,
        filtering=FilteringConfig(select_by="consensus"),
        config=RefinementConfig(),
        round_index=2,
    )

    assert [sample.query_id for sample in grown.values] == ["q1", "q3"]


def test_pool_remembers_when_each_sample_joined() -> None:
    pool, best = pool_and_best()

    grown = grow(pool, best)

    assert {s.query_id: s.joined_round for s in grown.values} == {
        "q1": 1, "q2": 1, "q3": 1, "q4": 2, "q5": 2,
    }  # fmt: skip


def test_near_duplicate_of_a_member_does_not_join() -> None:
    text = " ".join(f"word{i}" for i in range(40))
    pool = [replace(curated("q1", 1.0), chosen=text)]
    best = [*pool, replace(curated("q2", 5.0), prompt="q1", chosen=f"{text} too")]

    grown = grow(pool, best)

    assert [sample.query_id for sample in grown.values] == ["q1"]
    assert grown.counts["num_near_duplicates"] == 1


def test_who_joins_is_compared_with_what_members_say_after_the_round() -> None:
    before, after = (" ".join(f"{name}{i}" for i in range(40)) for name in ("old", "new"))
    renewed = replace(curated("q1", 5.0), chosen=after)
    twin = replace(curated("q2", 4.0), prompt="q1", chosen=f"{after} too")
    other = replace(curated("q3", 3.0), prompt="q1", chosen=f"{before} too")
    grown = grow([replace(curated("q1", 1.0), chosen=before)], [renewed, twin, other])

    assert [sample.query_id for sample in grown.values] == ["q1", "q3"]
    assert grown.counts["num_near_duplicates"] == 1


def test_rewrite_of_a_rewrite_carries_its_whole_lineage() -> None:
    best = [curated("q1", 1.0)]
    first = rewrite("q1", 1, 2.0, 1.0)
    first = replace(first, candidate=replace(first.candidate, lineage=("q1-r1-c1",)))
    (sample,) = choose_again(
        best, [first], queries=queries_of(best), config=FilteringConfig()
    ).values

    candidates, _ = refine([sample], FakeProxies("target"), num_candidates=1)

    assert (sample.chosen_origin, sample.chosen_lineage) == (
        CandidateOrigin.REWRITE,
        ("q1-r1-c1",),
    )
    assert candidates[0].lineage == ("q1-r1-c1", "q1-r2-c1")


def test_unjudged_refinement_takes_the_first_rewrite() -> None:
    best = [curated("q1", 5.0)]
    rewrites = [rewrite("q1", 1, -1.0), rewrite("q1", 2, 9.0)]

    again = choose_again(
        best, rewrites, queries=queries_of(best), config=FilteringConfig(choose_by="first")
    )

    assert (again.values[0].chosen, again.values[0].rejected) == ("rewrite 1", "good")


def test_feedback_and_rewrites_are_drawn_each_as_its_own_settings_say() -> None:
    clinic, target = FakeProxies("clinic"), FakeProxies("target")
    config = RefinementConfig(
        num_candidates=3,
        feedback_sampling=SamplingConfig(
            max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3
        ),
        rewrite_sampling=SamplingConfig(
            max_new_tokens=12, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        ),
    )
    common = {"target": target, "config": config, "seed": 0, "on_progress": no_progress}

    feedback = write_feedback(FIVE, generators=[clinic], **common).values  # type: ignore[arg-type]
    refine_samples(FIVE, feedback, round_index=2, **common)  # type: ignore[arg-type]

    assert clinic.sampler_of.params == [
        SamplingParams(max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3)
    ]
    assert target.sampler_of.params == [
        SamplingParams(
            max_new_tokens=12, num_candidates=3, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        )
    ]
