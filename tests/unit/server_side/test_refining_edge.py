"""Which samples a bounded round of refinement rewrites."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.errors import StageError
from server_side.config import FilteringConfig, RefinementConfig
from server_side.filtering import select_samples
from server_side.refinement import refine_samples, samples_to_refine, write_feedback
from server_side.samples import Feedback
from tests.support.curated import curated
from tests.support.fake_proxies import FakeProxies, no_progress

FIVE = [curated(f"q{number}", reward) for number, reward in enumerate((0.0, 4.0, 3.0, 1.0, 2.0))]


@pytest.mark.parametrize(
    ("max_queries", "pool_size", "expected"),
    [
        (2, 2, {3.0, 2.0}),
        (3, 2, {4.0, 3.0, 2.0}),
        (2, 5, {1.0, 0.0}),
        (4, 1, {4.0, 3.0, 2.0, 1.0}),
        (9, 2, {0.0, 1.0, 2.0, 3.0, 4.0}),
        (None, 2, {0.0, 1.0, 2.0, 3.0, 4.0}),
    ],
)
def test_a_bounded_round_rewrites_about_the_edge_of_the_pool(
    max_queries: int | None, pool_size: int, expected: set[float]
) -> None:
    best_first = sorted(FIVE, key=lambda sample: -sample.chosen_reward)

    kept = samples_to_refine(
        FIVE,
        pool=best_first[:pool_size],
        filtering=FilteringConfig(),
        config=RefinementConfig(max_queries=max_queries),
        seed=0,
    )

    assert {sample.chosen_reward for sample in kept} == expected
    assert list(kept) == [sample for sample in FIVE if sample in kept]


@pytest.mark.parametrize(
    ("growth", "max_queries", "expected"),
    [
        ("renew", None, {4.0, 3.0}),
        ("renew", 1, {3.0}),
        ("join", None, {2.0, 1.0, 0.0}),
        ("join", 2, {2.0, 1.0}),
        ("join_and_renew", 2, {3.0, 2.0}),
    ],
)
def test_what_cannot_change_the_pool_is_not_rewritten(
    growth: str, max_queries: int | None, expected: set[float]
) -> None:
    best_first = sorted(FIVE, key=lambda sample: -sample.chosen_reward)
    config = RefinementConfig(max_queries=max_queries, pool_growth=growth)

    kept = samples_to_refine(
        FIVE, pool=best_first[:2], filtering=FilteringConfig(), config=config, seed=0
    )

    assert {sample.chosen_reward for sample in kept} == expected


def test_a_round_in_which_nobody_is_left_to_join_asks_no_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = RefinementConfig(pool_growth="join")
    target = FakeProxies("target")

    kept = samples_to_refine(FIVE, pool=FIVE, filtering=FilteringConfig(), config=config, seed=0)
    feedback = write_feedback(
        kept, generators=[target], target=target, config=config, seed=0, on_progress=no_progress
    )
    rewrites = refine_samples(
        kept, feedback.values, target=target, config=config, round_index=2, seed=0,
        on_progress=no_progress,
    )  # fmt: skip

    assert kept == rewrites.values == ()
    assert target.sampler_of.params == []
    assert not caplog.records


def test_a_bounded_round_passes_over_those_that_are_nearly_the_same_as_a_member() -> None:
    """They rank above the edge and can still not join, so rewriting them would be in vain."""
    copy = "What helps against a cough that keeps me awake all night?"
    best = [
        replace(curated(f"q{number}", 9.0 - number), prompt=copy if number < 5 else f"own {number}")
        for number in range(12)
    ]
    filtering = FilteringConfig(k=3.0, min_pool_size=1, max_similarity=0.7)
    pool = select_samples(best, config=filtering).values

    def rewritten(max_queries: int) -> list[str]:
        kept = samples_to_refine(
            best,
            pool=pool,
            filtering=filtering,
            config=RefinementConfig(max_queries=max_queries),
            seed=0,
        )
        return [sample.query_id for sample in kept]

    assert [sample.query_id for sample in pool] == ["q0", "q5", "q6", "q7"]
    assert rewritten(4) == ["q6", "q7", "q8", "q9"]
    assert rewritten(10) == ["q0", "q1", "q2", "q5", "q6", "q7", "q8", "q9", "q10", "q11"]


def test_where_nothing_is_judged_each_round_draws_whom_it_rewrites_from_all_clients() -> None:
    best = [
        replace(curated(f"q{number:02}", 0.0), client_name="ab"[number // 30])
        for number in range(60)
    ]
    filtering = FilteringConfig(choose_by="first", select_by="all", max_similarity=1.0)
    config = RefinementConfig(max_queries=12)

    first, again, second = (
        samples_to_refine(best, pool=best, filtering=filtering, config=config, seed=seed)
        for seed in (0, 0, 1)
    )

    assert first == again != second
    assert len(first) == len(second) == 12
    for drawn in (first, second):
        assert {sample.client_name for sample in drawn} == {"a", "b"}
        assert [sample for sample in best if sample in drawn] == list(drawn)
    assert len({*first} & {*second}) < 12


def test_feedback_on_others_than_are_rewritten_is_never_taken_for_theirs() -> None:
    """An earlier version chose others among equals, and may have been cut off after feedback."""
    config = RefinementConfig()
    target = FakeProxies("target")
    feedback = [Feedback(query_id=sample.query_id, text="Shorter.") for sample in FIVE]

    with pytest.raises(StageError, match="found it on others"):
        refine_samples(
            FIVE, feedback[::-1], target=target, config=config, round_index=2, seed=0,
            on_progress=no_progress,
        )  # fmt: skip

    assert target.sampler_of.params == []
