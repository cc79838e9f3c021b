"""A judge between arms: how often each arm's answers are preferred to the reference's.

Asked seed by seed, about the rows by which all arms are compared, and only about what is public or
sampled: the test prompts and both arms' answers. How a pair is asked and counted is that of the win
rate within a run (`server_side/measuring/win_rate.py`); the interval is over rows and seeds, as
that of every other measure between arms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from lm.tables import ColumnMap, TextRow, read_table
from protocol.errors import StageError
from server_side.evaluation import ArmScores
from server_side.measuring.comparing import UNTUNED, ArmRun, Comparison
from server_side.measuring.intervals import Interval, percentile_interval, ratio_of_sums
from server_side.measuring.resampling import Resamples
from server_side.measuring.row_naming import name_rows
from server_side.measuring.win_rate import (
    Judge,
    RowVerdict,
    WinRate,
    count_verdicts,
    judge_answers,
    verdict_statistics,
)
from server_side.progress import shifted
from server_side.samples import OnProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmVerdict:
    """How one arm's answers were judged beside the reference's."""

    total: WinRate
    """Over all seeds and rows, with its interval over both."""
    by_seed: Mapping[int, float]
    """Win rate of each seed; not a number where the judge said nothing usable."""

    @property
    def num_seeds_ahead(self) -> int:
        """Seeds in which the arm is preferred to the reference."""
        return sum(rate > 0.5 for rate in self.by_seed.values())


def read_asked(folders: Iterable[Path]) -> dict[str, TextRow]:
    """Read what the targets of some runs were asked.

    Args:
        folders: The runs' folders.

    Returns:
        Public test records by the names that scores have for them.

    Raises:
        TableError: A run's test records cannot be read.
    """
    asked: dict[str, TextRow] = {}
    columns = ColumnMap(prompt="prompt", response="response")
    for folder in folders:
        rows = read_table(str(folder / "server" / "evaluation.jsonl"), columns=columns).rows
        asked |= zip(name_rows(rows), rows, strict=True)
    return asked


def judge_arms(
    runs: Sequence[ArmRun],
    comparison: Comparison,
    *,
    asked: Mapping[str, TextRow],
    judge: Judge,
    on_progress: OnProgress | None = None,
) -> dict[str, ArmVerdict]:
    """Ask a judge about every arm's answers beside the reference's.

    Args:
        runs: The runs that are compared.
        comparison: How they compare: reference, seeds, rows, resamples.
        asked: Test records by row.
        judge: Whom to ask.
        on_progress: Told how many questions are answered, of how many.

    Returns:
        By arm, the reference left out, how it was judged.

    Raises:
        StageError: The judge cannot be asked, or a row's test record is missing.
    """
    config, row_ids = comparison.config, comparison.row_ids
    if missing := set(chain(*row_ids.values())) - asked.keys():
        raise StageError(
            f"Expected the test records of all {comparison.num_rows} compared rows in "
            f"server/evaluation.jsonl of the runs, found {len(missing)} missing. Restore the files."
        )
    answers = _answers(runs, comparison)
    challengers = [arm.arm for arm in comparison.arms if arm.arm != config.reference]
    total = 2 * sum(
        len(row) for arm in challengers for seed in row_ids for row in answers[arm, seed].answers
    )
    resamples = Resamples.of(row_ids, num_resamples=config.num_resamples, seed=config.seed)
    found, done = {}, 0
    for arm in challengers:
        by_seed: dict[int, tuple[RowVerdict, ...]] = {}
        for seed, names in row_ids.items():
            by_seed[seed] = judge_answers(
                [asked[name] for name in names],
                incumbent=answers[config.reference, seed],
                challenger=answers[arm, seed],
                judge=judge,
                on_progress=on_progress and shifted(on_progress, offset=done, total=total),
            ).values
            done += 2 * sum(map(len, answers[arm, seed].answers))
        verdicts = tuple(chain(*by_seed.values()))
        rate = _rate(verdicts, resamples, confidence_level=config.confidence_level)
        found[arm] = ArmVerdict(
            total=count_verdicts(verdicts, judge_name=judge.name, rate=rate),
            by_seed=MappingProxyType({seed: _mean(own) for seed, own in by_seed.items()}),
        )
    return found


def _answers(runs: Sequence[ArmRun], comparison: Comparison) -> dict[tuple[str, int], ArmScores]:
    """Return the answers of each arm and seed to the rows that count, in one order."""
    reference = comparison.config.reference
    base = min(run.arm for run in runs) if reference == UNTUNED else reference
    scores = {(run.arm, run.seed): run.tuned for run in runs}
    # As everywhere in a comparison, the untuned target is that of the reference's runs.
    scores |= {(UNTUNED, run.seed): run.untuned for run in runs if run.arm == base}
    chosen = {}
    for (arm, seed), own in scores.items():
        place = {row.row_id: at for at, row in enumerate(own.rows)}
        places = [place[name] for name in comparison.row_ids.get(seed, ())]
        chosen[arm, seed] = replace(
            own,
            rows=tuple(own.rows[at] for at in places),
            answers=tuple(own.answers[at] for at in places),
        )
    return chosen


def _rate(
    verdicts: Sequence[RowVerdict], resamples: Resamples, *, confidence_level: float
) -> Interval | None:
    statistics = verdict_statistics(verdicts)
    sums = resamples.sums(statistics)
    answered = sums[sums[:, 1] > 0]  # a resample may draw nothing but what nobody answered
    if not len(answered):
        return None
    return percentile_interval(_mean(verdicts), ratio_of_sums(answered), confidence_level)


def _mean(verdicts: Sequence[RowVerdict]) -> float:
    wins, answered = verdict_statistics(verdicts).sum(axis=0)
    return float(wins / answered) if answered else math.nan
