"""What events cost: composed (epsilon, delta) by privacy loss distributions, and calibration back.

One accountant and one delta for everything: each training is a self-composed Poisson-sampled
Gaussian mechanism of `dp_accounting`, and all of them are composed before epsilon is read off.
The relation is add-or-remove-one; the larger of the two directions counts.

Covers: an upper bound. Losses are rounded pessimistically by the library, and delta is lowered by
more than the error of its Fourier transforms before epsilon is read off.
Does not cover: whether training really sampled, clipped and drew noise as its event says
(`client_side/dp_sgd.py` answers for that).

Reference:
    Koskela, Jälkö, Honkela (2020) and Doroshenko et al., "Connect the dots" (2022), as implemented
    in google/differential-privacy.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant

from protocol.checks import (
    check_count,
    check_fraction,
    check_open_fraction,
    check_positive,
)
from protocol.errors import ConfigurationError, UnaccountedReleaseError
from protocol.ledger import MAX_EVENTS, MAX_NOISE_MULTIPLIER, MAX_STEPS, DpSgdEvent, ProxyKind

ACCOUNTANT: Final = "dp_accounting PLD, connect-the-dots, pessimistic"
"""Name of the method, as certificates state it."""

ACCOUNTANT_VERSION: Final = importlib.metadata.version("dp-accounting")
"""Version of the library behind the numbers."""

MIN_DELTA: Final = 1e-9
"""Below this the rounding error of the transforms would no longer be small beside delta."""

MIN_NOISE_MULTIPLIER: Final = 0.05
"""Less noise than this is charged as none: one step costs an epsilon in the hundreds anyway, and
computing it exactly would let a hostile ledger exhaust the memory of whoever checks it."""

_DELTA_SLACK: Final = 1e-10
"""Subtracted from delta against floating-point error; sums of 10^6 terms err by about 10^-11."""

_FINE_GRID: Final = 0.03
"""Grid of privacy losses, as a fraction of one step's typical loss. Ten times finer would lower
epsilon by about 10^-5 of it and cost ten times as much."""

_COARSE_GRID: Final = 0.2
"""Grid with which calibration finds the neighbourhood; its answers are upper bounds as well."""

_WIDEST_INTERVAL: Final = 2.0
"""Total costs so large (about 10^5) that they would need a wider grid are called infinite."""

_RELATIVE_TOLERANCE: Final = 1e-4
"""Calibration stops when epsilon is below its target by less than this fraction of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One DP-SGD training whose noise is still to be found.

    Raises:
        ConfigurationError: A value is out of range.
    """

    proxy: ProxyKind
    """The model to train."""
    sample_rate: float
    """Probability with which a unit joins a step, in (0, 1]."""
    steps: int
    """Noisy steps to take."""
    noise_ratio: float = 1.0
    """This run's noise multiplier ÷ the common scale that calibration looks for."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_fraction(sample_rate=self.sample_rate)
        check_count(at_least=1, at_most=MAX_STEPS, steps=self.steps)
        check_positive(noise_ratio=self.noise_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Noise that meets a target, with what it really costs."""

    events: tuple[DpSgdEvent, ...]
    """One event per planned run, in their order."""
    epsilon: float
    """Composed epsilon of all events; at most the target."""
    delta: float
    """The delta at which it holds."""

    @property
    def noise_multipliers(self) -> tuple[float, ...]:
        """Noise multiplier of each run, in their order."""
        return tuple(event.noise_multiplier for event in self.events)


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeOffPoint:
    """What the best possible membership test can reach, for the report's curve."""

    false_positive_rate: float
    """How often it may cry wolf."""
    false_negative_rate: float
    """How often it must then miss a member, at least."""


def composed_epsilon(events: Iterable[DpSgdEvent], *, delta: float) -> float:
    """Compute one epsilon for all events together.

    Args:
        events: What was released, in any order.
        delta: Probability with which the guarantee may fail, in [1e-9, 1).

    Returns:
        An upper bound on epsilon; 0 for no events, infinite where one has next to no noise.

    Raises:
        ConfigurationError: `delta` is out of range.
        UnaccountedReleaseError: Something in the list is not an event that can be accounted for.

    Example:
        >>> event = DpSgdEvent(
        ...     proxy=ProxyKind.GENERATOR, noise_multiplier=1.0, sample_rate=0.05, steps=40
        ... )
        >>> round(composed_epsilon([event], delta=1e-5), 2)
        2.47
    """
    return _epsilon(_merged(events), delta=delta, grid=_FINE_GRID)


def trade_off_curve(
    events: Iterable[DpSgdEvent], *, num_points: int = 101
) -> tuple[TradeOffPoint, ...]:
    """Compute the lowest error rates of any test for one unit's presence.

    Args:
        events: What was released.
        num_points: How many false positive rates, evenly from 0 to 1, at least 2.

    Returns:
        The points in rising order of false positive rate; a straight line from (0, 1) to (1, 0)
        means that nothing can be learnt.

    Raises:
        UnaccountedReleaseError: Something in the list is not an event that can be accounted for.

    Reference:
        Dong, Roth, Su (2022), proposition 6: the curve is the upper envelope of the lines that
        each (epsilon, delta) allows.
    """
    check_count(at_least=2, at_most=100_001, num_points=num_points)
    runs = _merged(events)
    rates = np.linspace(0.0, 1.0, num_points)
    if not runs:
        missed = 1.0 - rates
    elif _is_unbounded(runs):
        missed = np.zeros(num_points)
    else:
        epsilons = np.concatenate([np.linspace(0.0, 2.0, 201), np.linspace(2.05, 40.0, 760)])
        accountant = _accountant(runs, interval=_interval(runs, _FINE_GRID))
        deltas = np.minimum(1.0, np.asarray(accountant.get_delta(epsilons)) + _DELTA_SLACK)
        growth = np.exp(epsilons)
        steep = 1.0 - deltas[:, None] - growth[:, None] * rates[None, :]  # (epsilons, points)
        flat = (1.0 - deltas[:, None] - rates[None, :]) / growth[:, None]  # (epsilons, points)
        missed = np.maximum(0.0, np.maximum(steep, flat).max(axis=0))
    return tuple(
        TradeOffPoint(false_positive_rate=float(rate), false_negative_rate=float(miss))
        for rate, miss in zip(rates, missed, strict=True)
    )


def calibrate(
    runs: Sequence[PlannedRun], *, target_epsilon: float, target_delta: float
) -> Calibration:
    """Find the least noise with which all runs together stay within a target.

    The ratio of the noise multipliers is given by the runs; their common scale is found by
    interpolation inside a bracket. Only a scale whose cost was computed is ever returned.

    Args:
        runs: What will be trained.
        target_epsilon: Composed epsilon that must not be exceeded, above 0.
        target_delta: Delta, in [1e-9, 1).

    Returns:
        One event per run and their composed epsilon, at most `target_epsilon`.

    Raises:
        ConfigurationError: There is no run, a value is out of range, or no noise is enough.
    """
    check_positive(target_epsilon=target_epsilon)
    check_count(at_least=1, at_most=MAX_EVENTS, num_runs=len(runs))

    def events_at(scale: float) -> tuple[DpSgdEvent, ...]:
        return tuple(
            DpSgdEvent(
                proxy=run.proxy,
                noise_multiplier=scale * run.noise_ratio,
                sample_rate=run.sample_rate,
                steps=run.steps,
            )
            for run in runs
        )

    def cost(scale: float, grid: float) -> float:
        return _epsilon(_merged(events_at(scale)), delta=target_delta, grid=grid)

    lowest = MIN_NOISE_MULTIPLIER / min(run.noise_ratio for run in runs)
    coarse = _find_scale(
        lambda scale: cost(scale, _COARSE_GRID),
        target=target_epsilon,
        low=lowest,
        high=max(1.0, 2 * lowest),
        tolerance=20 * _RELATIVE_TOLERANCE,
    )
    scale = _find_scale(
        lambda scale: cost(scale, _FINE_GRID),
        target=target_epsilon,
        low=max(lowest, 0.98 * coarse),
        high=1.001 * coarse,
        tolerance=_RELATIVE_TOLERANCE,
    )
    events = events_at(scale)
    epsilon = composed_epsilon(events, delta=target_delta)
    # Privacy: the search may only ever return a scale that it measured to be within the target.
    if epsilon > target_epsilon:
        raise ConfigurationError(
            f"Expected a composed epsilon of at most target_epsilon={target_epsilon}, found "
            f"{epsilon}, which is a mistake in the search. Do not train with it; report it."
        )
    return Calibration(events=events, epsilon=epsilon, delta=target_delta)


def _find_scale(
    cost: Callable[[float], float], *, target: float, low: float, high: float, tolerance: float
) -> float:
    """Find a scale whose cost is at most the target and close to it.

    Costs fall as the scale grows. Interpolates log cost over log scale, which is nearly straight;
    falls back to halving where an end is infinite or the interpolation clings to one end.
    """
    cost_high = cost(high)
    while cost_high > target:
        # At much noise epsilon falls as 1/scale, at little noise faster: this jump is never short.
        low, high = high, high * min(64.0, max(2.0, cost_high / target))
        if high > MAX_NOISE_MULTIPLIER:
            raise ConfigurationError(
                f"Expected a target_epsilon that some noise can meet, got target_epsilon={target}. "
                f"Raise it, or lower steps or expected_batch_size."
            )
        cost_high = cost(high)
    cost_low = cost(low)
    if cost_low <= target:
        return low
    for attempt in range(60):
        if cost_high >= target * (1 - tolerance) or high / low - 1 < 0.01 * tolerance:
            break
        ratio = 0.5
        if attempt % 3 < 2 and math.isfinite(cost_low) and cost_high > 0:
            # Aim a little under the target, so that the end that counts is the one that moves.
            aim = math.log(target * (1 - 0.4 * tolerance))
            ratio = (math.log(cost_low) - aim) / (math.log(cost_low) - math.log(cost_high))
            ratio = min(0.98, max(0.02, ratio))
        middle = low * (high / low) ** ratio
        cost_middle = cost(middle)
        if cost_middle <= target:
            high, cost_high = middle, cost_middle
        else:
            low, cost_low = middle, cost_middle
    return high


# A run as the accountant needs it: noise multiplier, sample rate, steps.
_Run = tuple[float, float, int]


def _merged(events: Iterable[DpSgdEvent]) -> tuple[_Run, ...]:
    """Add up the steps of events that differ in nothing else; their order does not matter."""
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        # Privacy: what cannot be accounted for is refused, never guessed or skipped.
        if not isinstance(event, DpSgdEvent):
            raise UnaccountedReleaseError(
                f"Expected DpSgdEvent, found {type(event).__name__}, whose cost is unknown. "
                f"Release only what DP-SGD trained."
            )
        key = (event.noise_multiplier, event.sample_rate)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items()))


def _is_unbounded(runs: tuple[_Run, ...]) -> bool:
    """Tell whether the cost is to be called infinite."""
    # Privacy: an upper bound on every true cost; what cannot be computed is never guessed lower.
    if any(noise_multiplier < MIN_NOISE_MULTIPLIER for noise_multiplier, _, _ in runs):
        return True
    # Many events of one kind add up to more steps than one event may state.
    if sum(steps for _, _, steps in runs) > 2 * MAX_STEPS:
        return True
    return _interval(runs, _FINE_GRID) > _WIDEST_INTERVAL


@lru_cache(maxsize=256)
def _epsilon(runs: tuple[_Run, ...], *, delta: float, grid: float) -> float:
    check_open_fraction(delta=delta)
    if delta < MIN_DELTA:
        raise ConfigurationError(
            f"Expected delta >= {MIN_DELTA}, got delta={delta}. A smaller one cannot be computed "
            f"reliably; raise it."
        )
    if not runs:
        return 0.0
    if _is_unbounded(runs):
        return math.inf
    accountant = _accountant(runs, interval=_interval(runs, grid))
    # Privacy: asking for a smaller delta makes epsilon larger, which is the safe side.
    # Where next to no mass is left below a loss, the library's quotient is infinite, and so is ε.
    with np.errstate(over="ignore"):
        return max(0.0, float(accountant.get_epsilon(delta - _DELTA_SLACK)))


def _interval(runs: tuple[_Run, ...], grid: float) -> float:
    """Choose the spacing of privacy losses from their size, within what memory allows.

    The bound is pessimistic for every spacing; only its tightness and its cost change. The two
    floors keep the number of cells near 10^5 for one step and for all of them, whatever
    ledger the other party sends.
    """
    typical_losses = [
        min(1.0, rate / noise) * max(1.0, (0.4 / noise) ** 2) for noise, rate, _ in runs
    ]
    widest_step = max(0.5 / noise**2 + 8.0 / noise for noise, _, _ in runs)
    widest_total = sum(
        steps * loss**2 + 10.0 * math.sqrt(steps) * loss
        for (_, _, steps), loss in zip(runs, typical_losses, strict=True)
    )
    floor = max(widest_step / 5e4, widest_total / 2e5) * (grid / _FINE_GRID)
    return max(grid * min(typical_losses), floor)


def _accountant(runs: tuple[_Run, ...], *, interval: float) -> PLDAccountant:
    # Privacy: the relation of the claim; both directions count, and the larger is what is read off.
    accountant = PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
    )
    for noise_multiplier, sample_rate, steps in runs:
        # Privacy: the mechanism that client_side/dp_sgd.py runs in each step; they change together.
        event = dp_accounting.SelfComposedDpEvent(
            dp_accounting.PoissonSampledDpEvent(
                sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
            ),
            steps,
        )
        try:
            accountant.compose(event)
        except dp_accounting.UnsupportedEventError:
            raise UnaccountedReleaseError(
                f"Expected an event that {ACCOUNTANT} supports, found noise_multiplier="
                f"{noise_multiplier}, sample_rate={sample_rate}. Install dp-accounting "
                f"{ACCOUNTANT_VERSION}."
            ) from None
    return accountant
