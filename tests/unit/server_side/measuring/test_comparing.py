"""Arms are paired row by row, seeds are no rows, and chance is told from difference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from protocol.errors import StageError
from server_side.evaluation import Metric
from server_side.measuring.comparing import (
    UNTUNED,
    ArmResult,
    ComparingConfig,
    Comparison,
    compare_runs,
)
from tests.support.arms import run_of, scores

CONFIG = ComparingConfig(
    reference="base", ceiling="ceiling", num_resamples=200, num_permutations=999
)
VALUES = [0.11, 0.25, 0.31, 0.18, 0.42, 0.27, 0.36, 0.22]


def arm(comparison: Comparison, name: str) -> ArmResult:
    (found,) = (result for result in comparison.arms if result.arm == name)
    return found


def test_a_value_is_the_mean_over_rows_and_a_difference_is_that_of_the_means() -> None:
    found = compare_runs([run_of("base", [0.1, 0.3]), run_of("other", [0.2, 0.6])], config=CONFIG)

    figure = arm(found, "other").figures[Metric.ROUGEL]
    assert figure.value.mean == pytest.approx(0.4)
    assert figure.difference is not None
    assert figure.difference.mean == pytest.approx(0.2)
    assert arm(found, "base").figures[Metric.ROUGEL].difference is None
    assert [result.arm for result in found.arms] == [UNTUNED, "base", "other"]


def test_the_untuned_target_stands_once_where_it_is_the_reference() -> None:
    config = replace(CONFIG, reference=UNTUNED)

    found = compare_runs([run_of("base", [0.1, 0.3]), run_of("other", [0.2, 0.6])], config=config)

    assert [result.arm for result in found.arms] == [UNTUNED, "base", "other"]


def test_a_p_value_of_few_rows_is_exact() -> None:
    """8 rows, all in favour by unlike amounts: of 2^8 exchanges, 2 are as extreme."""
    better = [value + 0.01 * (i + 1) for i, value in enumerate(VALUES)]

    found = compare_runs([run_of("base", VALUES), run_of("other", better)], config=CONFIG)

    assert arm(found, "other").figures[Metric.ROUGEL].p_value == pytest.approx(2 / 2**8)


def test_one_row_bears_no_difference_out() -> None:
    found = compare_runs(
        [run_of("dp_generate", [0.1]), run_of("other", [0.9])], config=ComparingConfig()
    )

    assert arm(found, "other").figures[Metric.ROUGEL].p_value == 1.0


def test_seeds_do_not_multiply_the_rows_of_a_test() -> None:
    """What one row says under three seeds is one observation, not three."""
    better = [value + 0.01 * (i + 1) for i, value in enumerate(VALUES)]
    runs = [
        run_of(name, values, seed=seed)
        for seed in (1, 2, 3)
        for name, values in (("base", VALUES), ("other", better))
    ]

    found = compare_runs(runs, config=CONFIG)

    assert found.num_rows == 24
    assert arm(found, "other").figures[Metric.ROUGEL].p_value == pytest.approx(2 / 2**8)


def test_arms_that_score_alike_do_not_differ() -> None:
    found = compare_runs([run_of("base", VALUES), run_of("other", VALUES)], config=CONFIG)

    for metric in Metric:
        figure = arm(found, "other").figures[metric]
        assert figure.p_value == 1.0
        assert figure.difference is not None
        assert (figure.difference.low, figure.difference.high) == (0.0, 0.0)
        assert figure.num_seeds_ahead == 0


def test_rows_are_paired_by_name_and_not_by_place() -> None:
    rows = {f"row{i}": value for i, value in enumerate(VALUES)}
    turned = dict(reversed({name: value + 0.05 for name, value in rows.items()}.items()))

    found = compare_runs([run_of("base", rows), run_of("other", turned)], config=CONFIG)

    difference = arm(found, "other").figures[Metric.ROUGEL].difference
    assert difference is not None
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)


def test_rows_that_one_arm_did_not_judge_are_left_out_and_counted() -> None:
    found = compare_runs(
        [run_of("base", {"a": 0.1, "b": 0.2, "c": 0.9}), run_of("other", {"a": 0.2, "b": 0.3})],
        config=CONFIG,
    )

    assert (found.num_rows, found.num_rows_left_out) == (2, 1)
    assert arm(found, "base").figures[Metric.ROUGEL].value.mean == pytest.approx(0.15)


def test_only_seeds_that_all_arms_have_count() -> None:
    runs = [run_of("base", VALUES, seed=s) for s in (1, 2)] + [run_of("other", VALUES, seed=2)]

    found = compare_runs(runs, config=CONFIG)

    assert found.seeds == (2,)
    assert arm(found, "base").samples_seen == (102,)


def test_an_interval_counts_that_seeds_disagree() -> None:
    """All rows of a seed are alike, so every bit of the interval's width comes from the seeds."""
    runs = [
        run_of(name, [value] * 20, seed=seed)
        for name, by_seed in (("base", (0.2, 0.2)), ("other", (0.1, 0.5)))
        for seed, value in enumerate(by_seed)
    ]

    figure = arm(compare_runs(runs, config=CONFIG), "other").figures[Metric.ROUGEL]

    assert (figure.value.low, figure.value.high) == pytest.approx((0.1, 0.5))
    assert figure.num_seeds_ahead == 1
    assert figure.by_seed == pytest.approx({0: 0.1, 1: 0.5})


def test_the_untuned_target_is_that_of_the_reference_whatever_the_order_of_the_runs() -> None:
    """Runs on other devices may have judged it otherwise."""
    runs = [
        run_of("base", VALUES, untuned=0.1),
        run_of("other", VALUES, untuned=0.2),
    ]

    for ordered in (runs, runs[::-1]):
        untuned, *_ = compare_runs(ordered, config=CONFIG).arms
        assert untuned.figures["rougeL"].value.mean == pytest.approx(0.1)


def test_the_gap_is_that_between_the_untuned_target_and_the_ceiling() -> None:
    """Untuned 0.1, ceiling 0.5: an arm at 0.3 has come half the way, in every resample."""
    runs = [run_of("base", [0.2] * 4), run_of("other", [0.3] * 4), run_of("ceiling", [0.5] * 4)]

    found = compare_runs(runs, config=CONFIG)

    gap = arm(found, "other").figures[Metric.ROUGEL].gap_closed
    assert gap is not None
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.5, 0.5, 0.5))
    assert arm(found, "ceiling").figures[Metric.ROUGEL].gap_closed is None
    assert arm(found, UNTUNED).figures[Metric.ROUGEL].gap_closed is None
    # All have the same perplexity as the untuned target: there is no gap to close.
    assert arm(found, "other").figures[Metric.PERPLEXITY].gap_closed is None


@pytest.mark.parametrize("ceiling", [0.1, 0.05])
def test_no_gap_is_told_to_a_ceiling_that_is_no_better_than_the_untuned_target(
    ceiling: float,
) -> None:
    """At 0.05 an arm at 0.05 would otherwise have closed all of the gap, by becoming worse."""
    runs = [run_of("base", [0.05] * 4), run_of("ceiling", [ceiling] * 4)]

    found = compare_runs(runs, config=CONFIG)

    assert arm(found, "base").figures[Metric.ROUGEL].gap_closed is None


def test_a_gap_in_perplexity_is_closed_downwards() -> None:
    runs = [run_of("base", VALUES, nll=19.0), run_of("ceiling", VALUES, nll=18.0)]

    found = compare_runs(runs, config=CONFIG)

    gap = arm(found, "base").figures[Metric.PERPLEXITY].gap_closed
    expected = (math.exp(1.9) - math.exp(2.0)) / (math.exp(1.8) - math.exp(2.0))
    assert gap is not None
    assert gap.mean == pytest.approx(expected)


def test_lower_perplexity_is_ahead() -> None:
    found = compare_runs(
        [run_of("base", VALUES, nll=20.0), run_of("other", VALUES, nll=19.0)], config=CONFIG
    )

    figure = arm(found, "other").figures[Metric.PERPLEXITY]
    assert figure.value.mean == pytest.approx(math.exp(1.9))
    assert figure.num_seeds_ahead == 1


def test_an_arm_that_reads_the_records_says_so() -> None:
    runs = [run_of("base", VALUES), run_of("ceiling", VALUES, tuned_on="private_records")]

    found = compare_runs(runs, config=CONFIG)

    assert arm(found, "ceiling").uses_private_records
    assert not arm(found, "base").uses_private_records
    assert not arm(found, UNTUNED).uses_private_records


def test_few_rows_of_a_seed_of_their_own_give_finite_intervals() -> None:
    """A resample may draw one seed twice and none of its rows."""
    runs = [
        run_of(name, {f"{seed}": 0.2 + seed / 10}, seed=seed)
        for seed in (1, 2)
        for name in ("base", "other")
    ]

    figure = arm(compare_runs(runs, config=CONFIG), "other").figures[Metric.ROUGEL]

    assert np.isfinite([figure.value.low, figure.value.high]).all()


@pytest.mark.parametrize(
    ("runs", "named"),
    [
        ([run_of("other", VALUES)], "reference arm base"),
        ([], "reference arm base"),
        ([run_of("base", VALUES), run_of("base", VALUES)], "two of arm=base"),
        ([run_of("base", VALUES, seed=1), run_of("other", VALUES, seed=2)], "all arms have"),
        ([run_of("base", {"a": 0.1}), run_of("other", {"b": 0.1})], "same test rows"),
        ([run_of("base", {"": 0.1})], "name of its own"),
        (
            [replace(run_of("base", {"a": 0.1}), tuned=scores({"": 0.1}))],
            "name of its own",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_one_clear_error(runs: list[object], named: str) -> None:
    with pytest.raises(StageError, match=named):
        compare_runs(runs, config=CONFIG)  # type: ignore[arg-type]


def test_arms_are_compared_by_the_answers_that_pass_their_tests() -> None:
    """Of two answers to each of 8 rows: base 0, other 1 everywhere. pass@1 is 1/2, pass@2 is 1."""
    runs = [
        run_of("base", VALUES, passed=[0] * 8),
        run_of("other", VALUES, passed=[1] * 8),
        run_of("ceiling", VALUES, passed=[2] * 8),
    ]

    figures = arm(compare_runs(runs, config=CONFIG), "other").figures

    first, second = figures["pass@1"], figures["pass@2"]
    assert (first.value.mean, second.value.mean) == (0.5, 1.0)
    assert first.difference is not None
    assert (first.difference.mean, first.difference.low) == (0.5, 0.5)
    assert first.p_value == pytest.approx(2 / 2**8)
    assert first.num_seeds_ahead == 1
    assert first.gap_closed is not None
    assert first.gap_closed.mean == pytest.approx(0.5)


def test_passes_are_paired_by_the_name_of_their_row() -> None:
    rows = {f"row{i}": value for i, value in enumerate(VALUES)}
    passed = [0, 1, 2, 0, 1, 2, 0, 1]
    turned = dict(reversed(rows.items()))

    found = compare_runs(
        [run_of("base", rows, passed=passed), run_of("other", turned, passed=passed[::-1])],
        config=CONFIG,
    )

    difference = arm(found, "other").figures["pass@1"].difference
    assert difference is not None
    assert (difference.low, difference.high) == (0.0, 0.0)


def test_what_one_run_did_not_test_is_no_measure() -> None:
    runs = [run_of("base", VALUES), run_of("other", VALUES, passed=[1] * 8)]

    found = compare_runs(runs, config=CONFIG)

    assert list(arm(found, "other").figures) == [metric.value for metric in Metric]
