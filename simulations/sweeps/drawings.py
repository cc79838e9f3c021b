"""The plots of a report on a sweep: scores, noise, refinement and audits against what was swept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from protocol.ledger import ProxyKind
from server_side.evaluation import Metric
from server_side.report.formats import METRIC_NAMES, metric_value
from server_side.report.svg import (
    AFTER,
    BEFORE,
    BOUNDARY,
    DROPPED,
    INK,
    MUTED,
    STYLE,
    WARN,
    Plot,
    finished_plot,
    legend_above,
    new_figure,
)
from simulations.sweeps.refining import (
    acceptance,
    generator_perplexity,
    reward_accuracy,
    reward_ranking,
)
from simulations.sweeps.results import EPSILON, PointResult, SweepResults

COLOURS: Final = (AFTER, DROPPED, BOUNDARY, WARN, INK, BEFORE)
"""One a series, again and again from the start."""

_MARKS: Final = "osD^vP"
_WIDTH: Final = 4.6
_HEIGHT: Final = 3.0
"""Size of a plot in inches, with a legend of few rows."""
_FREE_ROWS: Final = 2
_ROW_HEIGHT: Final = 0.21
_MAX_NAME: Final = 26
"""Characters of a name of which two stand side by side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepDrawings:
    """All plots of the report."""

    metrics: Mapping[Metric, Plot]
    """Scores of the tuned target."""
    mechanisms: tuple[Plot, ...]
    """Noise multipliers and time."""
    refinement: tuple[Plot, ...]
    """What generators have learnt, how rewards rank, and acceptance by round, where runs say."""
    audit: Plot | None
    """Bounds beside claims, where audits were run."""


Value = Callable[[PointResult], float | None]


def draw_sweep(results: SweepResults) -> SweepDrawings:
    """Draw everything that the points have figures for."""
    return SweepDrawings(
        metrics={metric: _metric(results, metric) for metric in Metric},
        mechanisms=(_noise(results), _time(results)),
        refinement=tuple(_refinement(results)),
        audit=_audit(results) if results.audits else None,
    )


def _metric(results: SweepResults, metric: Metric) -> Plot:
    name = METRIC_NAMES[metric]
    untuned = [item.score(metric.value, arm="untuned") for item in results.done]
    known = [value for value in untuned if value is not None]
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        _mark_level(axes, _mean(known), "untuned")
        said = _draw_series(axes, results, lambda item: item.score(metric.value))
        for (label, points), colour in zip(results.series.items(), _cycle(COLOURS), strict=False):
            free = [item.score(metric.value) for item in points if math.isinf(item.target_epsilon)]
            if results.axis == EPSILON and free and len(results.ticks) > 1:
                level = _mean([value for value in free if value is not None])
                axes.axhline(level, color=colour, linewidth=1.2, linestyle=":")
                said.append(f"{label} without noise {metric_value(level, metric)} (dotted)")
        axes.set_ylabel(name)
        return finished_plot(
            figure,
            title=f"{name} of the tuned target",
            text=f"Untuned {metric_value(_mean(known), metric)} (dashed). {_sentence(said)} Points "
            "are seeds, lines their mean, bars their range.",
            name=f"sweep-{metric.value}",
        )


def _noise(results: SweepResults) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        said = []
        for number, proxy in enumerate(ProxyKind):
            courses = _noise_courses(results, proxy)
            for place, (course, labels) in enumerate(courses.items()):
                name = f"{proxy.value} proxy"
                if len(courses) > 1:
                    name += f", {labels[0]}" + (f" and {len(labels) - 1} more" * (len(labels) > 1))
                means = dict(course)
                axes.plot(
                    list(means), list(means.values()), color=COLOURS[number],
                    marker=_MARKS[(3 * number + place) % len(_MARKS)], markersize=6, linewidth=1.6,
                    linestyle="-" if place == 0 else (0, (5, place)), label=name,
                )  # fmt: skip
                said.append(f"{name} {_ends(results, means, '.3f')}")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("noise multiplier")
        _finish_axis(axes, results)
        return finished_plot(
            figure,
            title="Noise multipliers",
            text=f"Noise standard deviation ÷ clipping norm: {_sentence(said)}",
            name="sweep-noise",
        )


def _noise_courses(
    results: SweepResults, proxy: ProxyKind
) -> dict[tuple[tuple[int, float], ...], list[str]]:
    """Return the courses of one proxy's noise over the axis, each with the series that have it."""
    courses: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for label, points in results.series.items():
        course = []
        for place, tick in enumerate(results.ticks):
            values = [
                event.noise_multiplier
                for item in _at(points, results.axis, tick)
                for event in item.envelope
                if event.proxy is proxy
            ]
            if values:
                course.append((place, _mean(values)))
        if course:
            courses.setdefault(tuple(course), []).append(label)
    return courses


def _time(results: SweepResults) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        said = _draw_series(axes, results, lambda item: item.point.seconds / 60)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("minutes a point")
        return finished_plot(
            figure,
            title="Time of a point, as it was spent",
            text=f"In minutes: {_sentence(said)} What a point took over from another is not in it; "
            "where points ran side by side, its waiting for the other is.",
            name="sweep-time",
        )


def _refinement(results: SweepResults) -> list[Plot]:
    plots = []
    if any(generator_perplexity(item) is not None for item in results.done):
        plots.append(_generators(results))
    if any(reward_ranking(item) is not None for item in results.done):
        plots += [_accuracy(results), _ranking(results)]
    if any(acceptance(item) for item in results.done):
        plots.append(_acceptance(results))
    return plots


def _generators(results: SweepResults) -> Plot:
    untuned = [generator_perplexity(item, arm="untuned") for item in results.done]
    level = _mean([value for value in untuned if value is not None])
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        _mark_level(axes, level, "base model")
        said = _draw_series(axes, results, generator_perplexity)
        axes.set_ylabel("perplexity")
        return finished_plot(
            figure,
            title="What the generators have learnt",
            text="Perplexity of public test responses under the generators, mean over clients; "
            f"under the base model {level:.3g} (dashed). {_sentence(said)}",
            name="sweep-generators",
        )


def _accuracy(results: SweepResults) -> Plot:
    return _beside_chance(
        results,
        reward_accuracy,
        chance=0.5,
        label="reward accuracy",
        title="How often rewards know the reference",
        text="Share of pairs in which the reference to a public test prompt gets more reward than "
        "a generator's answer; 0.5 is chance.",
        name="sweep-accuracy",
    )


def _ranking(results: SweepResults) -> Plot:
    return _beside_chance(
        results,
        reward_ranking,
        chance=0,
        label="rank correlation",
        title="How well rewards rank answers",
        text="Rank correlation of reward and ROUGE-L to the reference, within public test prompts; "
        "0 is chance.",
        name="sweep-ranking",
    )


def _beside_chance(
    results: SweepResults,
    value: Value,
    *,
    chance: float,
    label: str,
    title: str,
    text: str,
    name: str,
) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        axes.axhline(chance, color=MUTED, linewidth=1)
        said = _draw_series(axes, results, value)
        axes.set_ylabel(label)
        return finished_plot(figure, title=title, text=f"{text} {_sentence(said)}", name=name)


def _acceptance(results: SweepResults) -> Plot:
    rounds = sorted({number for item in results.done for number in acceptance(item)})
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        said = []
        lines = [(series, number) for series in results.series.items() for number in rounds]
        for ((label, points), number), colour in zip(lines, _cycle(COLOURS), strict=False):
            means = {}
            for place, tick in enumerate(results.ticks):
                found = [acceptance(item) for item in _at(points, results.axis, tick)]
                values = [100 * shares[number] for shares in found if number in shares]
                if values:
                    means[place] = _mean(values)
            if not means:  # an arm with one round
                continue
            name = f"{label}, round {number}" if len(results.series) > 1 else f"round {number}"
            axes.plot(
                list(means), list(means.values()), color=colour, marker="o", markersize=6,
                linewidth=1.6, label=name,
            )  # fmt: skip
            said.append(f"{name} {_ends(results, means, '.0f')}")
        axes.set_ylim(0, 105)
        axes.set_ylabel("accepted, %")
        _finish_axis(axes, results)
        return finished_plot(
            figure,
            title="Rewrites that were accepted",
            text="Share of the rewritten samples whose best response became a rewrite, in percent, "
            f"mean over seeds: {_sentence(said)}",
            name="sweep-acceptance",
        )


def _audit(results: SweepResults) -> Plot:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(_WIDTH, _HEIGHT)
        said = []
        for place, audit in enumerate(results.audits):
            bound = max(row["joint_epsilon"] for row in audit["rows"])
            axes.bar(place, bound, width=0.5, color=AFTER, alpha=0.6)
            claim = audit["epsilon"]
            if claim is not None:
                axes.hlines(claim, place - 0.35, place + 0.35, color=DROPPED, linewidth=2.4)
            said.append(f"{audit['name']}: bound {bound:.2f}, claim {claim:.2f}")
        axes.set_xticks(range(len(results.audits)), [str(item["name"]) for item in results.audits])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("ε")
        axes.grid(visible=False, axis="x")
        return finished_plot(
            figure,
            title="Lower bound of the audit beside the claim",
            text=f"{_sentence(said)} Bars are bounds over all attacks at once, lines are claims. A "
            "bound of 0 proves nothing.",
            name="sweep-audit",
        )


def _draw_series(axes: Axes, results: SweepResults, value: Value) -> list[str]:
    """Draw every series with the spread over its seeds, and say where it begins and ends."""
    said = []
    for number, (label, points) in enumerate(results.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        # Series lie beside one another, so that ranges can be told apart.
        shift = 0.09 * (number - (len(results.series) - 1) / 2)
        means = {}
        for place, tick in enumerate(results.ticks):
            found = [value(item) for item in _at(points, results.axis, tick)]
            values = [item for item in found if item is not None]
            if not values:
                continue
            means[place] = _mean(values)
            axes.vlines(
                place + shift, min(values), max(values), color=colour, linewidth=5, alpha=0.3
            )
            axes.plot([place + shift] * len(values), values, ".", color=colour, markersize=5)
        axes.plot(
            [place + shift for place in means], list(means.values()), color=colour,
            # Where colours begin again, they come with other marks.
            marker=_MARKS[(number + number // len(COLOURS)) % len(_MARKS)], markersize=6,
            linewidth=1.6, label=label,
        )  # fmt: skip
        said.append(f"{label} {_ends(results, means, '.3g')}")
    _finish_axis(axes, results)
    return said


def _mark_level(axes: Axes, level: float, name: str) -> None:
    axes.axhline(level, color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.text(
        0.995, level, name, transform=axes.get_yaxis_transform(), color=MUTED,
        fontsize=9, ha="right", va="bottom",
    )  # fmt: skip


def _finish_axis(axes: Axes, results: SweepResults) -> None:
    ticks = results.ticks
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.5, len(ticks) - 0.5)
    axes.set_xlabel("ε of a run" if results.axis == EPSILON else results.axis)
    axes.grid(visible=False, axis="x")
    names = axes.get_legend_handles_labels()[1]
    num_columns = 1 if any(len(name) > _MAX_NAME for name in names) else 2
    num_rows = math.ceil(len(names) / num_columns)
    figure = axes.figure
    assert isinstance(figure, Figure)
    # The legend takes its room from the axes, which many series would leave none of.
    figure.set_figheight(_HEIGHT + _ROW_HEIGHT * max(0, num_rows - _FREE_ROWS))
    legend_above(axes, num_columns=num_columns)


def _at(points: Sequence[PointResult], axis: str, tick: str) -> list[PointResult]:
    return [item for item in points if item.choices.get(axis, "all") == tick]


def _ends(results: SweepResults, means: Mapping[int, float], form: str) -> str:
    if not means:
        return "without figures"
    places = list(means)
    told = dict.fromkeys((places[0], places[-1]))
    return " and ".join(f"{means[p]:{form}} at {results.ticks[p]}" for p in told)


def _sentence(parts: Sequence[str]) -> str:
    return "; ".join(parts) + "."


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _cycle(colours: Sequence[str]) -> list[str]:
    return [*colours] * 50
