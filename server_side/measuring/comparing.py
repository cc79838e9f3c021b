"""Compare arms: runs that differ in one thing, judged on the same test rows, over several seeds.

Everything starts from the scores of single rows, which each run keeps (`RowScores`), and works for
every measure that is a formula on sums over rows, pass@k among them
(`server_side/measuring/measures.py`).

- **Pairing.** Runs are paired by seed and rows by name (`row_id`), so what differs between two arms
  is the arm: same records, same split, same test, same decoding. Only rows that all arms judged
  under a seed count; how many fell is told. Only seeds that all arms have count.
- **Intervals** resample seeds and rows, both with replacement and independently
  (`server_side/measuring/resampling.py`). That counts the chance of the draw of test
  rows and of training alike. Three seeds say little about training: the interval then rests
  on three points in that direction and is, if anything, too narrow.
- **The test** of a difference exchanges the two arms within a row, in all seeds at once, because
  what one row says under two seeds is not two observations. It so asks whether these trained
  targets differ on rows like these; whether other seeds would agree is told by the number of seeds
  in which the arm is ahead.
- **Gap closed**: (arm − untuned) ÷ (ceiling − untuned), within each resample. It is not told where
  the ceiling is no better than the untuned target, which happens: a small model tuned on records
  may score lower than before. Where it is hardly better, the interval is wide and means little.

Reference: Owen, "The pigeonhole bootstrap" (2007), for the intervals; Noreen (1989), approximate
randomization, for the test; POPri (ICML 2025) for the gap.

Shapes: `k` summed statistics of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from scipy.stats import permutation_test

from protocol.errors import StageError
from server_side.evaluation import ArmScores
from server_side.measuring.intervals import FloatArray, Interval, percentile_interval
from server_side.measuring.measures import (
    JudgedRow,
    common_measures,
    is_lower_better,
    judged_rows,
    measure_formula,
    measure_statistics,
)
from server_side.measuring.resampling import Resamples

UNTUNED: Final = "untuned"
"""Name of the target as it is, which every run judges."""

_AT_ONCE: Final = 250
"""Permutations held at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmRun:
    """One run of an arm."""

    arm: str
    """Name of the arm."""
    seed: int
    """The run's seed."""
    tuned_on: str
    """What the target was tuned on, as in `RunNotes`."""
    untuned: ArmScores = field(repr=False)
    """Scores of the target as it is."""
    tuned: ArmScores = field(repr=False)
    """Scores of the tuned target."""
    num_samples_seen: int | None = None
    """Samples that went through the model while it was tuned; None where nobody counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparingConfig:
    """How arms are compared."""

    reference: str = "dp_generate"
    """Arm from which differences are taken."""
    ceiling: str = "private_no_dp"
    """Arm that closes the whole gap; where it is missing, no gap is told."""
    num_resamples: int = 2000
    """Bootstrap resamples behind an interval."""
    num_permutations: int = 9999
    """Permutations behind a p-value, which is then at least 1 ÷ (this + 1)."""
    confidence_level: float = 0.95
    """Share of resamples that an interval covers."""
    seed: int = 0
    """Seed of resamples and permutations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmFigure:
    """How one arm did by one measure."""

    value: Interval
    """The measure over all seeds and rows, with its interval."""
    by_seed: Mapping[int, float]
    """The measure of each seed."""
    difference: Interval | None
    """Arm minus reference, paired; None for the reference itself."""
    p_value: float | None
    """Two-sided, of no difference to the reference; None for the reference itself."""
    num_seeds_ahead: int | None
    """Seeds in which the arm is better than the reference; None for the reference itself."""
    gap_closed: Interval | None
    """Share of the way from the untuned target to the ceiling; None without a better ceiling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """How one arm did."""

    arm: str
    """Name of the arm."""
    tuned_on: str
    """What its target was tuned on, as in `RunNotes`; `nothing` for the untuned target."""
    samples_seen: tuple[int, ...]
    """Samples seen in tuning, by seed; empty where unknown. Compare it before the scores."""
    figures: Mapping[str, ArmFigure]
    """How it did, by measure: those that all runs have."""

    @property
    def uses_private_records(self) -> bool:
        """Whether it reads the private records themselves and so exists in simulation only."""
        return self.tuned_on.startswith("private_records")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Several arms on the same rows."""

    config: ComparingConfig
    """How they were compared."""
    row_ids: Mapping[int, tuple[str, ...]] = field(repr=False)
    """Names of the rows that count, by seed: the seeds and rows that all arms have."""
    num_rows_left_out: int
    """Rows that some arm did not judge, summed over seeds."""
    arms: tuple[ArmResult, ...]
    """The untuned target first, then the reference, then the others by name."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that all arms have."""
        return tuple(self.row_ids)

    @property
    def num_rows(self) -> int:
        """Rows that count, summed over seeds."""
        return sum(map(len, self.row_ids.values()))


def compare_runs(runs: Sequence[ArmRun], *, config: ComparingConfig) -> Comparison:
    """Compare arms over the seeds and rows that all of them have.

    Args:
        runs: One run for each arm and seed.
        config: Reference, ceiling, intervals.

    Returns:
        Every arm with intervals, its paired difference to the reference, and the gap closed.

    Raises:
        StageError: The reference is missing, an arm stands twice under a seed, no seed is common to
            all arms, or they have no rows in common.
    """
    by_arm = _by_arm(runs, config)
    seeds = tuple(sorted(set.intersection(*(set(own) for own in by_arm.values()))))
    if not seeds:
        found = "; ".join(f"{arm}: {sorted(own)}" for arm, own in sorted(by_arm.items()))
        raise StageError(
            f"Expected a seed that all arms have, found none ({found}). Run the arms with the "
            "same seeds, or name fewer of them."
        )
    table, left_out = _aligned(by_arm, seeds, config=config)
    row_ids = {
        seed: tuple(row.scores.row_id for row in rows)
        for seed, rows in zip(seeds, next(iter(table.values())), strict=True)
    }
    sample = Resamples.of(row_ids, num_resamples=config.num_resamples, seed=config.seed)
    order = dict.fromkeys([UNTUNED, config.reference, *sorted(table)])
    compared = [own[seed] for own in by_arm.values() for seed in seeds]
    measures = common_measures(part for run in compared for part in (run.untuned, run.tuned))
    arms = []
    for arm in order:
        figures = {
            measure: _figure(arm, measure, table=table, sample=sample, config=config)
            for measure in measures
        }
        own = [by_arm[arm][seed] for seed in seeds] if arm in by_arm else []
        seen = [run.num_samples_seen for run in own]
        arms.append(
            ArmResult(
                arm=arm,
                tuned_on=own[0].tuned_on if own else "nothing",
                samples_seen=tuple(count for count in seen if count is not None),
                figures=MappingProxyType(figures),
            )
        )
    return Comparison(
        config=config,
        row_ids=MappingProxyType(row_ids),
        num_rows_left_out=left_out,
        arms=tuple(arms),
    )


def _by_arm(runs: Sequence[ArmRun], config: ComparingConfig) -> dict[str, dict[int, ArmRun]]:
    by_arm: dict[str, dict[int, ArmRun]] = {}
    for run in runs:
        own = by_arm.setdefault(run.arm, {})
        if run.seed in own:
            raise StageError(
                f"Expected one run for each arm and seed, found two of arm={run.arm} with "
                f"seed={run.seed}. Name one of them, or say LABEL=FOLDER for one."
            )
        own[run.seed] = run
    if config.reference not in {*by_arm, UNTUNED}:
        raise StageError(
            f"Expected a run of the reference arm {config.reference}, found "
            f"{', '.join(sorted(by_arm)) or 'none at all'}. Run it, or name another --reference."
        )
    return by_arm


def _aligned(
    by_arm: Mapping[str, Mapping[int, ArmRun]], seeds: Sequence[int], *, config: ComparingConfig
) -> tuple[dict[str, list[list[JudgedRow]]], int]:
    """Return each arm's rows by seed, the same rows in the same order, and how many fell."""
    table: dict[str, list[list[JudgedRow]]] = {arm: [] for arm in (*by_arm, UNTUNED)}
    left_out = 0
    # Every run of a seed judges the untuned target alike, unless on another device.
    base = by_arm.get(config.reference) or by_arm[min(by_arm)]
    for seed in seeds:
        scores = {arm: own[seed].tuned for arm, own in by_arm.items()}
        scores[UNTUNED] = base[seed].untuned
        named = {
            arm: {row.scores.row_id: row for row in judged_rows(found)}
            for arm, found in scores.items()
        }
        for arm, found in scores.items():
            if "" in named[arm] or len(named[arm]) < len(found.rows):
                raise StageError(
                    f"Expected each judged row of arm={arm}, seed={seed} to have a name of its "
                    "own, found rows without. Judge the run again with this version."
                )
        common = sorted(set.intersection(*(set(rows) for rows in named.values())))
        if not common:
            raise StageError(
                f"Expected the arms with seed={seed} to have judged the same test rows, found "
                "none in common. Compare runs on one test set."
            )
        left_out += len(set.union(*(set(rows) for rows in named.values()))) - len(common)
        for arm, rows in named.items():
            table[arm].append([rows[name] for name in common])
    return table, left_out


def _figure(
    arm: str,
    measure: str,
    *,
    table: Mapping[str, Sequence[Sequence[JudgedRow]]],
    sample: Resamples,
    config: ComparingConfig,
) -> ArmFigure:
    def statistics(name: str) -> FloatArray:
        return measure_statistics([row for rows in table[name] for row in rows], measure)

    formula = measure_formula(measure)

    def point(name: str) -> float:
        return float(formula(statistics(name).sum(axis=0)))

    def resamples(name: str) -> FloatArray:
        return formula(sample.sums(statistics(name)))

    def interval(value: float, values: FloatArray) -> Interval:
        return percentile_interval(value, values, config.confidence_level)

    def by_seed(name: str) -> list[float]:
        return [float(formula(measure_statistics(r, measure).sum(axis=0))) for r in table[name]]

    own, reference = point(arm), config.reference
    own_resamples, own_by_seed = resamples(arm), by_seed(arm)
    difference = p_value = ahead = gap = None
    if arm != reference:
        difference = interval(own - point(reference), own_resamples - resamples(reference))
        p_value = _permutation_p_value(
            sample.by_cluster(statistics(reference)),
            sample.by_cluster(statistics(arm)),
            measure,
            config=config,
        )
        sign = -1 if is_lower_better(measure) else 1
        gains = [sign * (a - b) for a, b in zip(own_by_seed, by_seed(reference), strict=True)]
        ahead = sum(gain > 0 for gain in gains)
    if config.ceiling in table and arm not in (UNTUNED, config.ceiling):
        base, base_resamples = point(UNTUNED), resamples(UNTUNED)
        whole = point(config.ceiling) - base
        wholes = resamples(config.ceiling) - base_resamples
        is_defined = wholes != 0
        # A share of a way that leads nowhere, or down, says nothing.
        is_ceiling = whole < 0 if is_lower_better(measure) else whole > 0
        if is_ceiling and is_defined.any():
            shares = (own_resamples - base_resamples)[is_defined] / wholes[is_defined]
            gap = interval((own - base) / whole, shares)
    return ArmFigure(
        value=interval(own, own_resamples),
        by_seed=MappingProxyType(dict(zip(sample.seeds, own_by_seed, strict=True))),
        difference=difference,
        p_value=p_value,
        num_seeds_ahead=ahead,
        gap_closed=gap,
    )


def _permutation_p_value(
    first: FloatArray, second: FloatArray, measure: str, *, config: ComparingConfig
) -> float:
    """Return how often exchanging the arms within rows gives as large a difference."""
    if len(first) < 2:  # exchanged or not, the difference of one row is as large
        return 1.0
    formula = measure_formula(measure)
    stacked = np.concatenate([first, second])  # (2 clusters, k)

    def gap(ours: FloatArray, theirs: FloatArray, axis: int = -1) -> FloatArray:
        # What is permuted are places in the stack, because scipy exchanges single numbers.
        sums = [
            stacked[np.asarray(places).astype(np.int64)].sum(axis=-2) for places in (ours, theirs)
        ]
        return formula(sums[0]) - formula(sums[1])

    places = np.arange(len(stacked), dtype=np.float64)
    found = permutation_test(
        (places[len(first) :], places[: len(first)]),
        gap,
        permutation_type="samples",
        vectorized=True,
        n_resamples=config.num_permutations,
        batch=_AT_ONCE,
        alternative="two-sided",
        rng=np.random.default_rng(config.seed),
    )
    return float(found.pvalue)
