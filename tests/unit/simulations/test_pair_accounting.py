"""Per-pair accounting: golden figures, closed forms, and a second implementation."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from scipy.optimize import brentq
from scipy.stats import binom, norm

from protocol.accounting import composed_epsilon
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent, ProxyKind
from simulations.pair_accounting import (
    PUBLISHED_TASKS,
    PairExplanation,
    PairProcedure,
    epsilon_of_several,
    explain_pairs,
)

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "pair_epsilon.json").read_text()
)
DELTA: float = GOLDEN["delta"]


@lru_cache
def published(task: str) -> PairExplanation:
    return explain_pairs(
        PairProcedure(
            num_records=GOLDEN["records"][task],
            pairs_per_record=GOLDEN["pairs_per_record"],
            batch_size=GOLDEN["batch_size"],
            num_epochs=GOLDEN["epochs"],
            target_epsilon=GOLDEN["stated_epsilon"],
            delta=DELTA,
        )
    )


def mixture(
    x: NDArray[np.float64], *, noise: float, rate: float, members: int
) -> NDArray[np.float64]:
    """Density of one step's output with the members, in the direction of their gradients."""
    drawn = np.arange(members + 1)
    weights = binom.pmf(drawn, members, rate)
    density: NDArray[np.float64] = norm.pdf(x[:, None], loc=drawn, scale=noise) @ weights
    return density


@pytest.mark.parametrize("task", list(PUBLISHED_TASKS))
def test_a_record_has_the_golden_epsilon(task: str) -> None:
    assert published(task).record_epsilon == pytest.approx(
        GOLDEN["record_epsilon"][task], abs=GOLDEN["tolerance"]
    )


def test_defaults_are_the_published_procedure() -> None:
    assert GOLDEN["records"] == PUBLISHED_TASKS
    assert PairProcedure(num_records=3364) == published("medical").procedure


@pytest.mark.parametrize("task", list(PUBLISHED_TASKS))
def test_the_noise_is_what_the_second_implementation_asks_for(task: str) -> None:
    """Opacus's Rényi accountant, which converts a little differently, finds 8 within 0.02."""
    item = published(task)
    accountant = RDPAccountant()
    accountant.history = [(item.noise_multiplier, item.procedure.sample_rate, item.procedure.steps)]

    epsilon = accountant.get_epsilon(delta=DELTA)

    assert epsilon == pytest.approx(GOLDEN["stated_epsilon"], abs=0.02)


def test_a_convolution_of_its_own_finds_the_medical_epsilon() -> None:
    """Losses of one step on a grid of 0.005, raised to the power of the steps by Fourier transform.

    The direction with the record present dominates. Rounding to the nearest cell shifts the sum of
    394 steps by far less than the tolerance of 0.1.
    """
    item = published("medical")
    noise, rate, cell = item.noise_multiplier, item.procedure.sample_rate, 0.005
    x = np.linspace(-8 * noise, 5 + 10 * noise, 200_001)
    present = mixture(x, noise=noise, rate=rate, members=5)
    losses = np.log(present / norm.pdf(x, scale=noise))
    size = 2**15  # 163 in all: from -20 up to 143
    cells = np.clip(np.rint(losses / cell).astype(int), -4000, size - 4001)
    one_step = np.bincount(cells % size, weights=present * (x[1] - x[0]), minlength=size)
    steps = item.procedure.steps
    total = np.fft.irfft(np.fft.rfft(one_step / one_step.sum()) ** steps, n=size)
    values = ((np.arange(size) + 4000) % size - 4000) * cell

    def excess(epsilon: float) -> float:
        above = values > epsilon
        return float((total[above] * -np.expm1(epsilon - values[above])).sum()) - DELTA

    assert float(brentq(excess, 1.0, 60.0)) == pytest.approx(item.record_epsilon, abs=0.1)


def test_ours_at_the_same_noise_is_what_the_ledger_would_say() -> None:
    item = published("medical")
    event = DpSgdEvent(
        proxy=ProxyKind.REWARD,
        noise_multiplier=item.noise_multiplier,
        sample_rate=128 / (5 * 3364),
        steps=394,
    )

    assert item.own_epsilon == composed_epsilon([event], delta=DELTA)
    assert item.own_epsilon < GOLDEN["stated_epsilon"] < item.own_epsilon_full_batch
    assert item.own_epsilon_full_batch < item.record_epsilon


@pytest.mark.parametrize("members", [1, 3])
def test_members_that_always_join_add_up_to_one_large_step(members: int) -> None:
    """At rate 1 it is the Gaussian mechanism of sensitivity `members` (Balle and Wang, 2018).

    delta(eps) = Phi(mu/2 - eps/mu) - exp(eps) Phi(-mu/2 - eps/mu), mu = members sqrt(10) / 5.
    """
    mu = members * math.sqrt(10) / 5.0

    def excess(epsilon: float) -> float:
        right = math.exp(epsilon + float(norm.logcdf(-mu / 2 - epsilon / mu)))
        return float(norm.cdf(mu / 2 - epsilon / mu)) - right - DELTA

    exact = float(brentq(excess, 0.0, 100.0))
    found = epsilon_of_several(
        noise_multiplier=5.0, sample_rate=1.0, steps=10, num_members=members, delta=DELTA
    )

    assert exact <= found <= 1.01 * exact


def test_one_step_agrees_with_numeric_integration() -> None:
    """delta(eps) of one step is the larger of two integrals over the densities' difference."""
    noise, rate, members = 0.8, 0.05, 4
    x = np.linspace(-15.0, 20.0, 400_001)
    present = mixture(x, noise=noise, rate=rate, members=members)
    absent = norm.pdf(x, scale=noise)

    def excess(epsilon: float) -> float:
        factor = math.exp(epsilon)
        removed = np.maximum(0.0, present - factor * absent).sum()
        added = np.maximum(0.0, absent - factor * present).sum()
        return float(max(removed, added) * (x[1] - x[0])) - DELTA

    exact = float(brentq(excess, 0.0, 60.0))
    found = epsilon_of_several(
        noise_multiplier=noise, sample_rate=rate, steps=1, num_members=members, delta=DELTA
    )

    assert exact - 1e-3 <= found <= exact + 0.02


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.05, 40), (0.6, 0.01, 100)])
def test_one_member_costs_what_the_accounting_of_the_ledger_says(
    noise: float, rate: float, steps: int
) -> None:
    event = DpSgdEvent(
        proxy=ProxyKind.REWARD, noise_multiplier=noise, sample_rate=rate, steps=steps
    )

    found = epsilon_of_several(
        noise_multiplier=noise, sample_rate=rate, steps=steps, num_members=1, delta=DELTA
    )

    assert found == pytest.approx(composed_epsilon([event], delta=DELTA), rel=0.01)


@settings(max_examples=5, deadline=None)
@given(
    noise=st.floats(min_value=0.8, max_value=4.0),
    rate=st.floats(min_value=0.005, max_value=0.1),
    members=st.integers(min_value=1, max_value=6),
)
def test_more_members_never_cost_less(noise: float, rate: float, members: int) -> None:
    fewer, more = (
        epsilon_of_several(
            noise_multiplier=noise, sample_rate=rate, steps=5, num_members=number, delta=DELTA
        )
        for number in (members, members + 1)
    )

    # Both are rounded upwards on grids of their own, which differ by less than a hundredth.
    assert fewer <= more + 0.01


def test_no_noise_is_no_privacy() -> None:
    epsilon = epsilon_of_several(
        noise_multiplier=0.0, sample_rate=0.1, steps=1, num_members=2, delta=DELTA
    )

    assert epsilon == math.inf


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"num_records": 0}, "records"),
        ({"batch_size": 10**6}, "batch_size"),
        ({"target_epsilon": 0.1}, "target_epsilon"),
        ({"target_epsilon": 1000.0}, "target_epsilon"),
        ({"target_epsilon": math.nan}, "target_epsilon"),
        ({"delta": 1e-12}, "delta"),
        ({"pairs_per_record": 0}, "pairs_per_record"),
    ],
)
def test_procedure_refuses_what_cannot_be_explained(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        PairProcedure(**{"num_records": 3364, **changes})
