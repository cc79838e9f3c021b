"""From guesses about canaries to a lower bound on ε that one training run proves.

Each of m canaries was included by a fair coin. An attacker scores all of them from what was
released, says "in" of the highest and "out" of the lowest, and abstains on the rest. Under
(ε, δ)-DP his number of right guesses is nearly dominated by a Binomial(r, e^ε ÷ (1 + e^ε)); an ε at
which what was seen is too unlikely is ruled out.

Covers: any scores, also chosen after seeing the release, as long as they do not use the coins; the
choice among several numbers of guesses, which is paid for by a union bound.
Does not cover: attacks better than these. A bound of 0 proves nothing.

Reference: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023,
arXiv 2305.08846), Theorem 5.2 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom, mannwhitneyu

from protocol.checks import check_count, check_open_fraction

_GUESSED_FRACTIONS: Final = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Shares of the canaries of which "in" is said; the same number of "out" is said, or none."""

_LARGEST_EPSILON: Final = 50.0
"""No number of canaries that fits a machine proves more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditBound:
    """What one list of scores proves."""

    epsilon: float
    """Lower bound on ε at the confidence asked for; 0 proves nothing."""
    num_guesses: int
    """Canaries about which the best strategy guessed."""
    num_correct: int
    """How many of them it got right."""


def one_run_epsilon(
    *, num_canaries: int, num_guesses: int, num_correct: int, delta: float, significance: float
) -> float:
    """Compute the lower bound for a number of guesses that was fixed before.

    Args:
        num_canaries: Canaries whose inclusion was decided by a coin, m.
        num_guesses: Guesses that were made, r, at most m.
        num_correct: Right ones among them, v, at most r.
        delta: δ of the claim, in (0, 1).
        significance: Probability with which the bound may exceed the truth, in (0, 1).

    Returns:
        The largest ε that is ruled out; 0 where none is.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        >>> round(one_run_epsilon(
        ...     num_canaries=100, num_guesses=100, num_correct=100, delta=1e-5, significance=0.05
        ... ), 2)
        3.49
    """
    check_count(at_least=1, at_most=10**9, num_canaries=num_canaries)
    check_count(at_least=0, at_most=num_canaries, num_guesses=num_guesses)
    check_count(at_least=0, at_most=num_guesses, num_correct=num_correct)
    check_open_fraction(delta=delta, significance=significance)

    def excess(epsilon: float) -> float:
        tail = _tail_probability(
            epsilon,
            num_canaries=num_canaries,
            num_guesses=num_guesses,
            num_correct=num_correct,
            delta=delta,
        )
        return tail - significance

    if excess(0.0) >= 0:
        return 0.0
    if excess(_LARGEST_EPSILON) < 0:
        return _LARGEST_EPSILON
    # The tail grows with ε, so everything below the root is ruled out.
    return float(brentq(excess, 0.0, _LARGEST_EPSILON, xtol=1e-6))


def audit_bound(
    scores: Sequence[float],
    is_included: Sequence[bool],
    *,
    delta: float,
    significance: float,
) -> AuditBound:
    """Compute the best lower bound that scores prove, over a fixed set of guessing strategies.

    Args:
        scores: One for each canary; higher means "in" is likelier. Must not use the coins.
        is_included: The coins.
        delta: δ of the claim, in (0, 1).
        significance: Probability with which the bound may exceed the truth, in (0, 1); shared
            among the strategies, so it holds for the best of them.

    Returns:
        The bound and the strategy that gave it.

    Raises:
        ValueError: Lengths differ, or a score is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)  # (m,)
    coins = np.asarray(is_included, dtype=np.bool_)  # (m,)
    if values.shape != coins.shape or not np.isfinite(values).all():
        raise ValueError(
            f"Expected a finite score for each of {len(coins)} canaries, got {len(values)} scores, "
            f"{int(np.isfinite(values).sum())} of them finite."
        )
    highest_first = coins[np.argsort(-values, kind="stable")]
    strategies = _strategies(len(coins))
    best = AuditBound(epsilon=0.0, num_guesses=0, num_correct=0)
    for num_in, num_out in strategies:
        correct = _num_correct(highest_first, num_in=num_in, num_out=num_out)
        epsilon = one_run_epsilon(
            num_canaries=len(coins),
            num_guesses=num_in + num_out,
            num_correct=correct,
            delta=delta,
            significance=significance / len(strategies),
        )
        if epsilon > best.epsilon or best.num_guesses == 0:
            best = AuditBound(epsilon=epsilon, num_guesses=num_in + num_out, num_correct=correct)
    return best


def area_under_curve(scores: Sequence[float], is_included: Sequence[bool]) -> float | None:
    """Compute how often an included canary scores above one that is not; 0.5 is chance.

    Args:
        scores: One for each canary.
        is_included: The coins.

    Returns:
        Area under the ROC curve, in [0, 1]; ties count half. None where all coins are alike.
    """
    values, coins = np.asarray(scores), np.asarray(is_included, dtype=np.bool_)
    inside, outside = values[coins], values[~coins]
    if not len(inside) or not len(outside):
        return None
    statistic: float = mannwhitneyu(inside, outside).statistic
    return float(statistic / (len(inside) * len(outside)))


def _tail_probability(
    epsilon: float, *, num_canaries: int, num_guesses: int, num_correct: int, delta: float
) -> float:
    """Bound the probability of so many right guesses under (ε, δ)-DP.

    Theorem 5.2: P[V >= v] <= β + 2 m δ α with β = P[W >= v], W ~ Binomial(r, e^ε ÷ (1 + e^ε)), and
    α = max over i of P[v - i <= W < v] ÷ i.
    """
    if num_correct == 0:
        return 1.0
    right = float(expit(epsilon))
    beta = float(binom.sf(num_correct - 1, num_guesses, right))
    shortfalls = np.arange(1, num_correct + 1)
    masses = np.cumsum(binom.pmf(num_correct - shortfalls, num_guesses, right))
    alpha = float(np.max(masses / shortfalls))
    return min(1.0, beta + 2 * num_canaries * delta * alpha)


def _strategies(num_canaries: int) -> tuple[tuple[int, int], ...]:
    """List how many "in" and "out" are guessed; fixed by the number of canaries alone."""
    found = set()
    for fraction in _GUESSED_FRACTIONS:
        count = round(fraction * num_canaries)
        if count:
            found.add((count, 0))
            found.add((count, min(count, num_canaries - count)))
    return tuple(sorted(found))


def _num_correct(highest_first: npt.NDArray[np.bool_], *, num_in: int, num_out: int) -> int:
    said_in = highest_first[:num_in]
    said_out = highest_first[len(highest_first) - num_out :]
    return int(said_in.sum()) + int((~said_out).sum())
