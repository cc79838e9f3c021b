"""By what arms are compared: the metrics of text, and pass@k where rows' tests were run.

A measure goes by its name, `rougeL` or `pass@1`. Each is a formula on sums over rows, and so can be
resampled and have its rows exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from server_side.evaluation import (
    LOWER_IS_BETTER,
    ArmScores,
    Metric,
    RowScores,
    metric_formula,
    row_statistics,
)
from server_side.measuring.intervals import FloatArray, Formula, ratio_of_sums
from server_side.measuring.pass_rates import PassCount, pass_statistics

_PASS = re.compile(r"pass@([1-9]\d*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedRow:
    """All that one arm's answers to a test row are judged by."""

    scores: RowScores
    """Sums behind the metrics of text."""
    passes: PassCount | None = field(default=None)
    """How many answers pass the row's tests; None where none were run."""


def judged_rows(scores: ArmScores) -> list[JudgedRow]:
    """Return an arm's rows, in their order."""
    if not scores.pass_counts:
        return [JudgedRow(scores=row) for row in scores.rows]
    pairs = zip(scores.rows, scores.pass_counts, strict=True)
    return [JudgedRow(scores=row, passes=passes) for row, passes in pairs]


def common_measures(scores: Iterable[ArmScores]) -> tuple[str, ...]:
    """Return the measures that all arms have: pass@k first, which says most where it exists."""
    ks = set.intersection(*(set(found.pass_at_k) for found in scores))
    return (*(f"pass@{k}" for k in sorted(ks)), *(metric.value for metric in Metric))


def is_measure(name: str) -> bool:
    """Return whether a measure may have that name.

    >>> is_measure("pass@10"), is_measure("rougeL"), is_measure("pass@0"), is_measure("accuracy")
    (True, True, False, False)
    """
    return _PASS.fullmatch(name) is not None or name in {metric.value for metric in Metric}


def is_lower_better(measure: str) -> bool:
    """Return whether a measure improves as it falls."""
    return measure in LOWER_IS_BETTER


def measure_statistics(rows: Sequence[JudgedRow], measure: str) -> FloatArray:
    """Return what each row adds to the sums that the measure's formula takes, (n, k).

    Args:
        rows: Rows of one arm; for pass@k, each with how many of its answers pass.
        measure: Name of the measure, one for which `is_measure` holds.

    Returns:
        One line a row in the order of `rows`, (n, 10) for BLEU and (n, 2) for all others.
    """
    if found := _PASS.fullmatch(measure):
        counts = [row.passes for row in rows if row.passes is not None]
        assert len(counts) == len(rows), "common_measures names what all arms have"
        return pass_statistics(counts, int(found[1]))
    return row_statistics([row.scores for row in rows], Metric(measure))


def measure_formula(measure: str) -> Formula:
    """Return how a measure follows from the sums of `measure_statistics`."""
    return ratio_of_sums if _PASS.fullmatch(measure) else metric_formula(Metric(measure))
