"""One-run bounds against a second implementation, against simulation, and at their edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigurationError
from simulations.audit.bounds import area_under_curve, audit_bound, one_run_epsilon

GOLDEN = json.loads(
    (Path(__file__).parents[3] / "golden" / "one_run_bounds.json").read_text(encoding="utf-8")
)
DELTA = 1e-5


def randomised_response(
    epsilon: float, num_canaries: int, *, seed: int
) -> tuple[list[float], list[bool]]:
    """The mechanism that is exactly ε-DP: tell each coin truly with probability e^ε ÷ (1 + e^ε)."""
    rng = np.random.default_rng(seed)
    coins = rng.random(num_canaries) < 0.5
    is_true = rng.random(num_canaries) < 1 / (1 + np.exp(-epsilon))
    told = np.where(is_true, coins, ~coins)
    # Ties are broken at random, or the strategies would not see canaries in mixed order.
    return (told + 0.5 * rng.random(num_canaries)).tolist(), coins.tolist()


@pytest.mark.parametrize("known", GOLDEN["bounds"], ids=lambda known: f"{known['num_correct']}")
def test_bounds_equal_those_of_a_second_implementation(known: dict[str, float]) -> None:
    settings = {name: value for name, value in known.items() if name != "epsilon"}

    found = one_run_epsilon(**settings)  # type: ignore[arg-type]  # numbers from JSON

    assert found == pytest.approx(known["epsilon"], abs=GOLDEN["provenance"]["tolerance"])


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_bounds_of_an_exactly_dp_mechanism_stay_below_its_epsilon(epsilon: float) -> None:
    """100 audits at significance 0.05, shared among strategies: 14 failures or more are < 0.1 %."""
    failures = 0
    for seed in range(100):
        scores, coins = randomised_response(epsilon, 200, seed=seed)
        bound = audit_bound(scores, coins, delta=DELTA, significance=0.05)
        failures += bound.epsilon > epsilon

    assert failures < 14


def test_bounds_come_close_to_the_epsilon_of_an_exactly_dp_mechanism() -> None:
    scores, coins = randomised_response(2.0, 10_000, seed=1)

    bound = audit_bound(scores, coins, delta=DELTA, significance=0.05)

    assert 1.8 < bound.epsilon < 2.0


def test_a_mechanism_that_tells_everything_exceeds_any_modest_claim() -> None:
    coins = [index % 2 == 0 for index in range(1000)]

    bound = audit_bound([float(c) for c in coins], coins, delta=DELTA, significance=0.05)

    assert bound.epsilon > 4
    assert bound.num_correct == bound.num_guesses


def test_scores_without_information_prove_nothing() -> None:
    rng = np.random.default_rng(3)
    coins = (rng.random(500) < 0.5).tolist()

    assert audit_bound(rng.random(500).tolist(), coins, delta=DELTA, significance=0.01).epsilon == 0


@given(
    num_guesses=st.integers(1, 200),
    missing=st.integers(0, 200),
    epsilon_step=st.integers(1, 20),
)
def test_one_more_right_guess_never_lowers_the_bound(
    num_guesses: int, missing: int, epsilon_step: int
) -> None:
    correct = max(1, num_guesses - missing)

    fewer, more = (
        one_run_epsilon(
            num_canaries=200 + epsilon_step,
            num_guesses=num_guesses,
            num_correct=count,
            delta=DELTA,
            significance=0.05,
        )
        for count in (correct - 1, correct)
    )

    assert fewer <= more + 1e-6


def test_a_larger_delta_never_raises_the_bound() -> None:
    bounds = [
        one_run_epsilon(
            num_canaries=1000, num_guesses=200, num_correct=190, delta=delta, significance=0.05
        )
        for delta in (1e-9, 1e-5, 1e-3, 1e-1)
    ]

    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0


def test_area_under_curve_counts_ties_half() -> None:
    assert area_under_curve([2.0, 1.0, 1.0, 0.0], [True, True, False, False]) == 0.875


@pytest.mark.parametrize("coin", [True, False])
def test_where_all_coins_are_alike_there_is_no_area_under_a_curve(coin: bool) -> None:
    assert area_under_curve([2.0, 1.0], [coin, coin]) is None


def test_more_correct_guesses_than_guesses_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_correct"):
        one_run_epsilon(
            num_canaries=10, num_guesses=5, num_correct=6, delta=DELTA, significance=0.05
        )


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [1.0]])
def test_scores_that_are_missing_or_not_finite_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite score for each of 2 canaries"):
        audit_bound(scores, [True, False], delta=DELTA, significance=0.05)
