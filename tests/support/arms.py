"""Runs of arms with row scores that are given as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server_side.evaluation import ArmScores, Metric, RowScores
from server_side.measuring.comparing import ArmRun
from server_side.measuring.intervals import Interval
from server_side.measuring.pass_rates import PassCount

ROUGE = (Metric.ROUGE1, Metric.ROUGE2, Metric.ROUGEL)


def scores(
    by_row: Mapping[str, float], *, nll: float = 20.0, passed: Sequence[int] = ()
) -> ArmScores:
    """Return the scores of an arm whose rows have these ROUGE values, 10 tokens a reference.

    `passed` says how many of two answers to each row pass its tests; without it none were run.
    """
    rows = tuple(
        RowScores(
            num_samples=1,
            rouge=dict.fromkeys(ROUGE, value),
            bleu_statistics=(10, 10, round(10 * value), 0, 0, 0, 10, 9, 8, 7),
            nll_sum=nll,
            num_tokens=10,
            row_id=row_id,
        )
        for row_id, value in by_row.items()
    )
    some = Interval(mean=0.0, low=0.0, high=0.0)
    return ArmScores(
        metrics=dict.fromkeys(Metric, some),
        distinct={1: 0.5, 2: 0.9},
        unfinished_fraction=0.0,
        mean_answer_words=1.0,
        rows=rows,
        answers=tuple(("an answer",) for _ in rows),
        pass_counts=tuple(PassCount(num_samples=2, num_passed=number) for number in passed),
        pass_at_k={1: some, 2: some} if passed else {},
    )


def run_of(
    arm: str,
    values: Sequence[float] | Mapping[str, float],
    *,
    seed: int = 1,
    untuned: float = 0.1,
    nll: float = 20.0,
    tuned_on: str = "synthetic",
    passed: Sequence[int] = (),
) -> ArmRun:
    """Return a run of an arm; its untuned target scores the same in every row and passes none."""
    rows = values if isinstance(values, Mapping) else {f"row{i}": v for i, v in enumerate(values)}
    return ArmRun(
        arm=arm,
        seed=seed,
        tuned_on=tuned_on,
        untuned=scores(dict.fromkeys(rows, untuned), passed=[0] * len(passed)),
        tuned=scores(rows, nll=nll, passed=passed),
        num_samples_seen=100 + seed,
    )
