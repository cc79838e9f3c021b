from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_side.config import FilteringConfig, RefinementConfig, ThresholdRule
from server_side.filtering import pool_threshold, select_samples
from server_side.refinement import (
    choose_again,
    grow_pool,
)
from server_side.samples import (
    CuratedSample,
    StageResult,
)
from tests.support.curated import curated, queries_of, rewrite

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
    """A pool of q1, q2 and q3 at 2, 1 and 4; renewed to 3, 1.5 and 4; q4 at 1, q5 at 9, q6 at ½."""
    pool = [
        replace(curated(f"q{i}", reward), joined_round=1)
        for i, reward in ((1, 2.0), (2, 1.0), (3, 4.0))
    ]
    after = ((1, 3.0), (2, 1.5), (3, 4.0), (4, 1.0), (5, 9.0), (6, 0.5))
    best = [
        replace(curated(f"q{i}", reward), chosen_candidate_id=f"q{i}-r2-c1") for i, reward in after
    ]
    return pool, best


@pytest.mark.parametrize(
    ("settings", "rewards_in_pool"),
    [
        ({}, [3.0, 1.5, 4.0, 1.0, 9.0]),
        ({"threshold": "median"}, [3.0, 1.0, 4.0, 9.0]),
        ({"threshold": "none"}, [3.0, 1.5, 4.0, 1.0, 9.0, 0.5]),
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


def test_unjudged_refinement_takes_the_first_rewrite() -> None:
    best = [curated("q1", 5.0)]
    rewrites = [rewrite("q1", 1, -1.0), rewrite("q1", 2, 9.0)]

    again = choose_again(
        best, rewrites, queries=queries_of(best), config=FilteringConfig(choose_by="first")
    )

    assert (again.values[0].chosen, again.values[0].rejected) == ("rewrite 1", "good")
