import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_side.config import EvaluationConfig
from server_side.measuring.pass_rates import PassCount, pass_at_k, pass_rate_differences, pass_rates

CONFIG = EvaluationConfig(samples_per_prompt=4, pass_k=[1, 2], num_resamples=200)


@pytest.mark.parametrize(
    ("num_samples", "num_passed", "k", "expected"),
    [
        (1, 1, 1, 1.0),
        (5, 2, 1, 2 / 5),  # k = 1 is the share that passes
        (4, 1, 2, 1 / 2),  # 1 - C(3, 2) / C(4, 2) = 1 - 3 / 6
        (5, 2, 3, 9 / 10),  # 1 - C(3, 3) / C(5, 3) = 1 - 1 / 10
        (10, 3, 5, 11 / 12),  # 1 - C(7, 5) / C(10, 5) = 1 - 21 / 252
        (5, 3, 3, 1.0),  # only two fail, so that any three have one that passes
        (7, 0, 7, 0.0),
    ],
)
def test_pass_at_k_matches_values_worked_out_by_hand(
    num_samples: int, num_passed: int, k: int, expected: float
) -> None:
    assert pass_at_k(num_samples=num_samples, num_passed=num_passed, k=k) == pytest.approx(
        expected, abs=1e-15
    )


@given(data=st.data(), num_samples=st.integers(1, 7))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_passing_answer(
    data: st.DataObject, num_samples: int
) -> None:
    """The definition, by counting every draw of k answers."""
    k = data.draw(st.integers(1, num_samples))
    num_passed = data.draw(st.integers(0, num_samples))
    draws = list(itertools.combinations(range(num_samples), k))
    hits = sum(any(answer < num_passed for answer in draw) for draw in draws)

    assert math.isclose(
        pass_at_k(num_samples=num_samples, num_passed=num_passed, k=k),
        hits / len(draws),
        abs_tol=1e-12,
    )


def test_many_samples_neither_overflow_nor_lose_digits() -> None:
    """C(2000, 100) is no double; 1 of 2000 passes, so that pass@100 is 100 / 2000."""
    assert pass_at_k(num_samples=2000, num_passed=1, k=100) == pytest.approx(0.05, abs=1e-15)


def _counts(*passed: int) -> tuple[PassCount, ...]:
    return tuple(PassCount(num_samples=4, num_passed=number) for number in passed)


def test_pass_rate_of_an_arm_is_the_mean_over_rows_with_its_interval() -> None:
    """By row 0, 1/4 and 1 for k = 1; 0, 1/2 and 1 for k = 2."""
    rates = pass_rates(_counts(0, 1, 4), config=CONFIG, seed=0)

    assert list(rates) == [1, 2]
    assert rates[1].mean == pytest.approx(5 / 12)
    assert rates[2].mean == pytest.approx(1 / 2)
    assert 0 <= rates[1].low < rates[1].mean < rates[1].high <= 1


def test_difference_is_tuned_minus_untuned_and_paired() -> None:
    """Each row gains one answer in four: without pairing, the rows' spread would blur that."""
    found = pass_rate_differences(
        untuned=_counts(0, 1, 3), tuned=_counts(1, 2, 4), config=CONFIG, seed=0
    )

    assert found[1].mean == pytest.approx(1 / 4)
    assert found[1].low == pytest.approx(1 / 4)
    assert found[1].high == pytest.approx(1 / 4)


def test_without_tests_there_is_no_pass_rate() -> None:
    assert dict(pass_rates((), config=CONFIG, seed=0)) == {}
    assert dict(pass_rate_differences(untuned=(), tuned=(), config=CONFIG, seed=0)) == {}
