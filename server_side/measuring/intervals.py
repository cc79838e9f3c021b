"""Bootstrap intervals over test rows, for one arm and for the difference of two.

Every metric here is a formula on sums over rows: a mean is Σx ÷ Σ1, a corpus perplexity
exp(Σnll ÷ Σtokens), a corpus BLEU a function of summed n-gram counts. A bootstrap resample of the
rows is therefore a vector of row counts, and one matrix product gives the sums of many resamples.
With one seed, two arms see the same resamples, which is what makes their difference a paired one.

Shapes: `n` rows, `k` summed statistics of a row, `R` resamples.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13
(percentile interval); Koehn (2004) for resampling the rows of a corpus metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Formula = Callable[[FloatArray], FloatArray]
"""From summed statistics, (..., k), to the metric, (...)."""

_MAX_CELLS = 4_000_000
"""Row counts held at once: 32 MB, whatever the number of rows and resamples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A metric with its bootstrap interval."""

    mean: float
    """The metric on all rows."""
    low: float
    """Lower end of the percentile interval."""
    high: float
    """Upper end of the percentile interval."""


def judge(difference: Interval, *, is_lower_better: bool) -> str:
    """Return `better` or `worse` where the paired interval excludes 0, otherwise `unclear`.

    Args:
        difference: How much the judged arm exceeds the other, by the paired bootstrap.
        is_lower_better: Whether the metric improves as it falls.

    Returns:
        The judged arm's verdict; an interval that ends at 0 does not exclude it.
    """
    if difference.low <= 0 <= difference.high:
        return "unclear"
    return "better" if (difference.high < 0) == is_lower_better else "worse"


def bootstrap_interval(
    statistics: FloatArray,
    formula: Formula,
    *,
    num_resamples: int,
    confidence_level: float,
    seed: int,
) -> Interval:
    """Return a metric and its percentile interval over resampled rows.

    Args:
        statistics: What a row adds to the sums, (n, k), n >= 1.
        formula: From sums to the metric.
        num_resamples: Number of resamples, at least 1.
        confidence_level: Probability of the interval, in (0, 1).
        seed: Seed of the resamples.

    Returns:
        The metric on all rows, with the interval.

    >>> column = np.array([[1.0, 1.0], [3.0, 1.0]])
    >>> bootstrap_interval(
    ...     column, ratio_of_sums, num_resamples=200, confidence_level=0.9, seed=0
    ... )
    Interval(mean=2.0, low=1.0, high=3.0)
    """
    point = float(formula(statistics.sum(axis=0)))
    resampled = np.concatenate(
        [
            formula(counts @ statistics)
            for counts in _row_counts(len(statistics), num_resamples=num_resamples, seed=seed)
        ]
    )
    return percentile_interval(point, resampled, confidence_level)


def paired_difference(
    *,
    first: FloatArray,
    second: FloatArray,
    formula: Formula,
    num_resamples: int,
    confidence_level: float,
    seed: int,
) -> Interval:
    """Return how much a metric of `second` exceeds that of `first` on the same rows.

    Args:
        first: Statistics of one arm, (n, k).
        second: Statistics of the other arm on the same rows in the same order, (n, k).
        formula: From sums to the metric.
        num_resamples: Number of resamples, at least 1.
        confidence_level: Probability of the interval, in (0, 1).
        seed: Seed of the resamples.

    Returns:
        Metric of `second` minus metric of `first`, with the interval of the paired bootstrap.
    """
    assert first.shape == second.shape, "paired arms have the same rows"
    point = float(formula(second.sum(axis=0)) - formula(first.sum(axis=0)))
    resampled = np.concatenate(
        [
            formula(counts @ second) - formula(counts @ first)
            for counts in _row_counts(len(first), num_resamples=num_resamples, seed=seed)
        ]
    )
    return percentile_interval(point, resampled, confidence_level)


def ratio_of_sums(sums: FloatArray) -> FloatArray:
    """Return first sum ÷ second sum: a mean where the second column counts."""
    quotient: FloatArray = sums[..., 0] / sums[..., 1]
    return quotient


def perplexity_of_sums(sums: FloatArray) -> FloatArray:
    """Return exp(summed negative log-likelihood ÷ number of tokens)."""
    return np.exp(np.minimum(ratio_of_sums(sums), 700.0))  # exp(710) is no longer a double


def _row_counts(num_rows: int, *, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each row stands in each resample, (r, n), some resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_CELLS // num_rows)
    probabilities = np.full(num_rows, 1.0 / num_rows)
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        yield rng.multinomial(num_rows, probabilities, size=size).astype(np.float64)


def percentile_interval(point: float, resampled: FloatArray, confidence_level: float) -> Interval:
    """Return a metric with the interval that holds the middle of its resampled values.

    Args:
        point: The metric on all rows, finite.
        resampled: The metric on each resample, (R,), R >= 1.
        confidence_level: Share of the resampled values that the interval holds, in (0, 1).

    Returns:
        The metric; what the interval leaves out lies below and above it in equal shares.
    """
    tail = (1.0 - confidence_level) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    assert math.isfinite(point), "sums of finite statistics give a finite metric"
    return Interval(mean=point, low=float(low), high=float(high))
