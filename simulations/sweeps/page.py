"""The report on a sweep: one self-contained HTML page, and the same figures as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.accounting import composed_epsilon
from protocol.ledger import DpSgdEvent, ProxyKind
from server_side.evaluation import Metric
from server_side.report.formats import (
    METRIC_NAMES,
    epsilon,
    metric_change,
    metric_value,
    probability,
)
from server_side.report.rendering import page_environment
from server_side.report.svg import standalone
from server_side.whole_files import write_atomically
from simulations.sweeps.costs import SweepCost, selection_epsilon, sweep_cost
from simulations.sweeps.drawings import SweepDrawings, draw_sweep
from simulations.sweeps.refining import (
    acceptance,
    generator_perplexity,
    reward_accuracy,
    reward_ranking,
)
from simulations.sweeps.results import EPSILON, PointResult, SweepResults

PAGE_FILE: Final = "sweep_report.html"
"""The page, in the sweep's folder."""

TABLE_FILE: Final = "sweep.csv"
"""One line a point, in the sweep's folder."""

_MEAN_RUNS: Final = (2.0, 5.0, 10.0)
"""Mean numbers of runs for which private selection is priced."""
_COLOURS: Final = """
svg { --ink: #1b1f24; --muted: #5c6470; --line: #dedcd6; --before: #8a909b; --after: #0b7285;
 --dropped: #c2562d; --boundary: #7048a8; --warn: #8a5a00; --card: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e9ebee; --muted: #a2abb8; --line: #2f3640;
 --before: #949dab; --after: #4cc3d4; --dropped: #f19066; --boundary: #b79be6; --warn: #f2c46a;
 --card: #1a1e25; } }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One metric of one row, written out."""

    mean: str
    """Mean over seeds."""
    change: str
    """Mean change from the untuned target."""
    range: str
    """Range over seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One series at one place on the axis."""

    tick: str
    """The place."""
    series: str
    """The series."""
    num_seeds: int
    """Points behind it."""
    cells: tuple[Cell, ...]
    """One a metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """Releases that one or more points started from."""

    points: str
    """Names of these points."""
    epsilon: float
    """Composed ε of the dearest client, as its ledger states it."""
    delta: float
    """Its δ."""
    events: tuple[DpSgdEvent, ...]
    """Events that cost at least what those of any client do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What private selection costs where one run costs so much."""

    alone: float
    """ε of one run."""
    costs: tuple[float, ...]
    """ε of the selected run, by mean number of runs."""


def write_sweep_report(results: SweepResults, *, figures: Path | None = None) -> Path:
    """Write page and table into the sweep's folder.

    Args:
        results: The sweep.
        figures: Where every plot goes as an SVG file of its own; None writes none.

    Returns:
        The page.

    Raises:
        StageError: The disk refuses.
    """
    plots = draw_sweep(results)
    page = results.folder / PAGE_FILE
    write_atomically(results.folder / TABLE_FILE, sweep_table(results))
    write_atomically(page, render_sweep(results, plots))
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        drawn = [*plots.metrics.values(), *plots.mechanisms, *plots.refinement]
        for plot in [*drawn, *([plots.audit] if plots.audit else [])]:
            name = plot.title.lower().replace(" ", "-").replace(",", "")
            write_atomically(figures / f"{name}.svg", standalone(plot, _COLOURS))
    return page


def render_sweep(results: SweepResults, plots: SweepDrawings) -> str:
    """Return the report on a sweep as one HTML document.

    Args:
        results: The sweep, with at least one point that is done.
        plots: What `draw_sweep` made of it.

    Returns:
        The document, which needs nothing beside it; failed points stand in it as well.
    """
    done = results.done
    cost = sweep_cost(results.points)
    facts = next((item.provenance for item in done if item.provenance), {})
    return (
        page_environment("simulations.sweeps")
        .get_template("sweep.html.j2")
        .render(
            name=results.folder.resolve().name,
            axis="ε of a run" if results.axis == EPSILON else results.axis,
            headline=_headline(results),
            warning=_warning(cost),
            total=results.num_points,
            points=results.points,
            done=done,
            failed=[item for item in results.points if item.is_failed],
            at_work=[item for item in results.points if item.is_at_work],
            cost=cost,
            not_covered=dict.fromkeys(
                text for item in done for text in (item.metrics or {}).get("not_covered", ())
            ),
            sharing=_sharing(cost),
            seconds=sum(item.point.seconds for item in results.points),
            score_note=_score_note(results),
            metric_names=[METRIC_NAMES[metric] for metric in Metric],
            rows=_rows(results),
            exchanges=_exchanges(results.points),
            selections=_selections(results.points, cost),
            unfinished_audits=results.unfinished_audits,
            plots=plots,
            commands=[shlex.join(words) for words in dict.fromkeys(results.sweep.commands)],
            point_commands=[
                shlex.join(item.provenance["command"])
                for item in results.points
                if "command" in item.provenance
            ],
            versions={
                "python": facts.get("python", "unknown"),
                "sources": str(facts.get("sources_digest", "unknown"))[:16],
                **facts.get("libraries", {}),
            },
        )
    )


def sweep_table(results: SweepResults) -> str:
    """Return one line a point as CSV, failed ones among them."""
    metrics = [metric.value for metric in Metric]
    ends, arms = ("mean", "low", "high"), ("untuned", "tuned")
    head = [
        "point", "status", "arm", "seed", "num_clients", "target_epsilon", "epsilon", "delta",
        *(f"{proxy.value}_{name}" for proxy in ProxyKind for name in ("noise", "rate", "steps")),
        *(f"{arm}_{name}_{end}" for arm in arms for name in metrics for end in ends),
        *(f"generator_{arm}_perplexity" for arm in arms),
        "reward_accuracy", "reward_rank_correlation", "acceptance_by_round", "seconds",
        "exchange", "overrides", "error",
    ]  # fmt: skip
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    names = {releases: f"e{number}" for number, releases in enumerate(_by_releases(results.points))}
    for item in results.points:
        ledgers = list(item.ledgers.values())
        events = {event.proxy: event for event in item.envelope}
        mechanism = [
            value
            for proxy in ProxyKind
            for value in (
                (events[proxy].noise_multiplier, events[proxy].sample_rate, events[proxy].steps)
                if proxy in events
                else ("", "", "")
            )
        ]
        scores = [
            item.metrics[arm][name][end] if item.metrics else ""
            for arm in arms
            for name in metrics
            for end in ends
        ]
        epsilons = [_ledger_epsilon(ledger) for ledger in ledgers]
        writer.writerow(
            [
                item.name, item.point.status.value, item.arm, item.seed,
                item.config.num_clients if item.config else "",
                item.target_epsilon if item.config else "",
                max(epsilons, default=""), max((x["delta"] for x in ledgers), default=""),
                *mechanism, *scores, *(generator_perplexity(item, arm=arm) for arm in arms),
                reward_accuracy(item), reward_ranking(item),
                json.dumps(acceptance(item)), round(item.point.seconds, 1),
                names.get(item.releases, ""), " ".join(item.point.overrides),
                item.point.error or "",
            ]
        )  # fmt: skip
    return file.getvalue()


def _headline(results: SweepResults) -> str:
    ticks = ", ".join(results.ticks)
    name = "ε" if results.axis == EPSILON else results.axis
    scores = [value for item in results.done if (value := item.score("rougeL")) is not None]
    before = [v for item in results.done if (v := item.score("rougeL", arm="untuned")) is not None]
    return (
        f"Over {name} = {ticks}, ROUGE-L of the tuned target lies between {min(scores):.3f} and "
        f"{max(scores):.3f}; untuned it is {math.fsum(before) / len(before):.3f}."
    )


def _warning(cost: SweepCost) -> str:
    without = (
        f" {cost.num_non_private} more had no noise at all; with them no guarantee exists."
        if cost.num_non_private
        else ""
    )
    unknown = (
        f" What {_points(cost.num_unknown)} without a ledger spent before the end is not known."
        if cost.num_unknown
        else ""
    )
    noisy = cost.num_exchanges - cost.num_non_private
    return (
        f"Whoever chooses a point after seeing all of them has seen {_counted(noisy)}, which "
        f"on the same records cost, composed, ε = {epsilon(cost.epsilon)} at δ = "
        f"{probability(cost.delta)}, and not the ε of the point.{without}{unknown} See below for "
        "two ways that cost less."
    )


def _counted(number: int) -> str:
    return f"{number} exchange" if number == 1 else f"{number} exchanges"


def _points(number: int) -> str:
    return f"{number} point" if number == 1 else f"{number} points"


def _sharing(cost: SweepCost) -> str:
    if cost.num_exchanges == cost.num_runs:
        return "every point trained its own"
    return f"{cost.num_runs} points share them; those that do are no independent draws of noise"


def _score_note(results: SweepResults) -> str:
    seeds = sorted({item.seed for item in results.done if item.seed is not None})
    if len(seeds) == 1:
        return f"There is one seed ({seeds[0]}): no spread can be seen."
    return f"Seeds {', '.join(map(str, seeds))} draw records, split and samples anew."


def _rows(results: SweepResults) -> list[Row]:
    rows = []
    for tick in results.ticks:
        for label, points in results.series.items():
            here = [item for item in points if item.choices.get(results.axis, "all") == tick]
            if here:
                cells = tuple(_cell(here, metric) for metric in Metric)
                rows.append(Row(tick=tick, series=label, num_seeds=len(here), cells=cells))
    return rows


def _cell(points: list[PointResult], metric: Metric) -> Cell:
    tuned = [float(item.score(metric.value) or 0.0) for item in points]
    untuned = [float(item.score(metric.value, arm="untuned") or 0.0) for item in points]
    mean = math.fsum(tuned) / len(tuned)
    return Cell(
        mean=metric_value(mean, metric),
        change=metric_change(mean - math.fsum(untuned) / len(untuned), metric),
        range=f"{metric_value(min(tuned), metric)} to {metric_value(max(tuned), metric)}"
        if len(tuned) > 1
        else "",
    )


def _by_releases(points: tuple[PointResult, ...]) -> dict[str, list[PointResult]]:
    found: dict[str, list[PointResult]] = {}
    for item in points:
        if item.ledgers:
            found.setdefault(item.releases, []).append(item)
    return found


def _exchanges(points: tuple[PointResult, ...]) -> list[Exchange]:
    return [
        Exchange(
            points=", ".join(item.name for item in together),
            epsilon=max(map(_ledger_epsilon, together[0].ledgers.values())),
            delta=max(ledger["delta"] for ledger in together[0].ledgers.values()),
            events=together[0].envelope,
        )
        for together in _by_releases(points).values()
    ]


def _ledger_epsilon(ledger: Mapping[str, Any]) -> float:
    return math.inf if ledger["epsilon"] is None else float(ledger["epsilon"])


def _selections(points: tuple[PointResult, ...], cost: SweepCost) -> list[Selection]:
    envelopes = dict.fromkeys(item.envelope for item in points if item.envelope)
    found = []
    for events in envelopes:
        alone = composed_epsilon(events, delta=cost.delta)
        if math.isfinite(alone):
            costs = tuple(
                selection_epsilon([events], mean_runs=mean, shape=0.0, delta=cost.delta)
                for mean in _MEAN_RUNS
            )
            found.append(Selection(alone=alone, costs=costs))
    return sorted(found, key=lambda item: item.alone)
