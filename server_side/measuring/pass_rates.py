"""pass@k of an arm and of the difference of two, from how many answers of each row pass its tests.

Like every metric here it is a mean over rows, with an interval over resampled rows
(`server_side/measuring/intervals.py`); that the estimate within a row rests on few samples is part
of it.

Reference: Chen et al., arXiv 2107.03374, equation 1 (the unbiased estimator of pass@k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from server_side.config import EvaluationConfig
from server_side.measuring.intervals import (
    FloatArray,
    Interval,
    bootstrap_interval,
    paired_difference,
    ratio_of_sums,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PassCount:
    """How the answers to one row did."""

    num_samples: int
    """Answers that were run."""
    num_passed: int
    """Answers that passed all tests of the row."""


def pass_at_k(*, num_samples: int, num_passed: int, k: int) -> float:
    """Estimate without bias the probability that one of k samples passes.

    Args:
        num_samples: Samples that were judged, n >= k.
        num_passed: How many of them pass, c.
        k: Samples that a user would draw.

    Returns:
        1 - C(n - c, k) / C(n, k).

    Reference:
        Chen et al., arXiv 2107.03374, equation 1; by exact whole numbers, where they multiply
        floats.

    >>> pass_at_k(num_samples=2, num_passed=1, k=1), pass_at_k(num_samples=3, num_passed=1, k=2)
    (0.5, 0.6666666666666666)
    """
    assert 1 <= k <= num_samples, "EvaluationConfig refuses a larger k"
    missed = Fraction(math.comb(num_samples - num_passed, k), math.comb(num_samples, k))
    return float(1 - missed)


def pass_rates(
    counts: Sequence[PassCount], *, config: EvaluationConfig, seed: int
) -> Mapping[int, Interval]:
    """Return pass@k of an arm for each k that is asked for.

    Args:
        counts: One for each row; none where no tests were run.
        config: Which k, and the intervals.
        seed: Seed of the bootstrap.

    Returns:
        By k, the mean over rows with its interval; empty where no tests were run.
    """
    if not counts:
        return MappingProxyType({})
    return MappingProxyType(
        {
            k: bootstrap_interval(
                pass_statistics(counts, k),
                ratio_of_sums,
                num_resamples=config.num_resamples,
                confidence_level=config.confidence_level,
                seed=seed,
            )
            for k in config.pass_k
        }
    )


def pass_rate_differences(
    *,
    untuned: Sequence[PassCount],
    tuned: Sequence[PassCount],
    config: EvaluationConfig,
    seed: int,
) -> Mapping[int, Interval]:
    """Return by how much pass@k of the tuned arm exceeds that of the untuned one, row by row.

    Args:
        untuned: Counts of the target as it is.
        tuned: Counts of the tuned target on the same rows.
        config: Which k, and the intervals.
        seed: Seed of the bootstrap.

    Returns:
        By k, tuned minus untuned with the interval of the paired bootstrap; empty where no tests
        were run.
    """
    if not untuned:
        return MappingProxyType({})
    return MappingProxyType(
        {
            k: paired_difference(
                first=pass_statistics(untuned, k),
                second=pass_statistics(tuned, k),
                formula=ratio_of_sums,
                num_resamples=config.num_resamples,
                confidence_level=config.confidence_level,
                seed=seed,
            )
            for k in config.pass_k
        }
    )


def pass_statistics(counts: Sequence[PassCount], k: int) -> FloatArray:
    """Return what each row adds to the sums whose ratio is pass@k, (n, 2).

    Args:
        counts: How many answers of each row pass.
        k: Samples that a user would draw, at most `num_samples` of every row.

    Returns:
        The row's own pass@k beside 1, (n, 2), in the order of `counts`.
    """
    return np.array(
        [
            [pass_at_k(num_samples=row.num_samples, num_passed=row.num_passed, k=k), 1.0]
            for row in counts
        ]
    )
