"""The plots of a run's report, each as inline SVG (`server_side/report/svg.py`)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np

from protocol.accounting import TradeOffPoint
from server_side.measuring.intervals import Interval
from server_side.report.svg import (
    AFTER,
    BEFORE,
    DROPPED,
    LINE,
    MUTED,
    STYLE,
    Plot,
    finished_plot,
    legend_above,
    new_figure,
)

_FALSE_ALARMS: Final = 1
"""Rate of false alarms, in percent, at which the trade-off is put into words."""
_MAX_POINTS: Final = 400
"""Points of a scatter plot; each costs about 100 bytes of the page."""
_LOSSES: Final = {
    "sft": "Mean loss of a response token",
    "dpo": "Loss of preferring the chosen response (DPO)",
    "orpo": "Loss of a response token and of preferring the chosen response (ORPO)",
}


def reward_histogram(
    *, before: Sequence[float], after: Sequence[float], round_index: int, name: str
) -> Plot:
    """Draw how rewards lay before and after filtering, each as a share of its own number.

    Args:
        before: Rewards of all scored candidates of the round.
        after: Rewards of the chosen responses in the pool after the round.
        round_index: The round.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot.
    """
    edges = _bin_edges([*before, *after])
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(4.2, 2.7)
        for values, colour, label, alpha in (
            (before, BEFORE, f"all candidates ({len(before):,})", 0.45),
            (after, AFTER, f"pool ({len(after):,})", 0.55),
        ):
            if values:
                weights = np.full(len(values), 100 / len(values))
                axes.hist(
                    values, bins=edges, weights=weights, color=colour, alpha=alpha, label=label
                )
                axes.axvline(float(np.median(values)), color=colour, linewidth=1.8)
        axes.set_xlabel("reward (standardised)")
        axes.set_ylabel("share, %")
        axes.grid(visible=False, axis="x")
        legend_above(axes)
        title = f"Round {round_index}: rewards before and after filtering"
        text = (
            f"Round {round_index}. Median reward of all candidates {_median(before)}, of the pool "
            f"{_median(after)}. Vertical lines mark the medians."
        )
        return finished_plot(figure, title=title, text=text, name=name)


def reward_by_round(chosen: Mapping[int, Sequence[float]], *, name: str) -> Plot:
    """Draw quartiles of the chosen responses' rewards in the pool of each round.

    Args:
        chosen: By round, the rewards in its pool; at least one round, and none without rewards.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot; beside the quartiles it has the middle 80 % of each round.
    """
    rounds = list(chosen)
    quantiles = np.array([np.quantile(chosen[r], [0.1, 0.25, 0.5, 0.75, 0.9]) for r in rounds])
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(4.2, 2.7)
        axes.vlines(rounds, quantiles[:, 0], quantiles[:, 4], color=AFTER, linewidth=2)
        axes.vlines(rounds, quantiles[:, 1], quantiles[:, 3], color=AFTER, linewidth=12, alpha=0.35)
        axes.plot(rounds, quantiles[:, 2], color=AFTER, marker="o", markersize=6, linewidth=1.4)
        axes.set_xticks(rounds, [f"{r}\n{len(chosen[r]):,} samples" for r in rounds])
        axes.set_xlim(rounds[0] - 0.6, rounds[-1] + 0.6)
        axes.set_xlabel("round")
        axes.set_ylabel("reward of chosen")
        axes.grid(visible=False, axis="x")
        medians = ", ".join(
            f"round {r}: {m:.2f}" for r, m in zip(rounds, quantiles[:, 2], strict=True)
        )
        return finished_plot(
            figure,
            title="Reward of the pool, round by round",
            text=f"Median reward of the chosen responses, {medians}. Bars hold the middle half, "
            "lines the middle 80 %.",
            name=name,
        )


def reward_scatter(
    *,
    values: Sequence[float],
    rewards: Sequence[float],
    is_kept: Sequence[bool],
    label: str,
    is_log: bool,
    correlation: float | None,
    name: str,
) -> Plot:
    """Draw rewards against another property of the candidates, the pool's own marked.

    Args:
        values: The other property, one a candidate.
        rewards: Reward of each candidate.
        is_kept: Whether the candidate is in the pool.
        label: What the property is.
        is_log: Whether to draw it on a logarithmic axis.
        correlation: Spearman's rank correlation; None where it is not defined.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot; of many candidates only some are drawn, evenly picked.
    """
    step = max(1, -(-len(values) // _MAX_POINTS))
    x, y = np.array(values), np.array(rewards)
    kept = np.array(is_kept, dtype=bool)
    shown = np.zeros(len(x), dtype=bool)
    shown[::step] = True
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(4.2, 2.7)
        axes.scatter(
            x[shown & ~kept], y[shown & ~kept], s=9, color=BEFORE, alpha=0.55, linewidths=0,
            label="candidate",
        )  # fmt: skip
        kept_shown = np.flatnonzero(kept)[:: max(1, -(-int(kept.sum()) // _MAX_POINTS))]
        axes.scatter(
            x[kept_shown], y[kept_shown], s=16, color=AFTER, alpha=0.9, linewidths=0, label="pool"
        )
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5), numticks=7))
            axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.set_xlabel(label)
        axes.set_ylabel("reward")
        legend_above(axes)
        stated = "is not defined" if correlation is None else f"is {correlation:+.2f}"
        return finished_plot(
            figure,
            title=f"Reward against {label}",
            text=f"Rank correlation of reward and {label} over the round's candidates {stated}.",
            name=name,
        )


def loss_curve(losses: Mapping[int, Sequence[float]], *, objective: str, name: str) -> Plot:
    """Draw the target's training loss over the steps of all rounds, one after the other.

    Args:
        losses: By round, the loss of each step.
        objective: What was minimised, as in the settings.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(4.2, 2.7)
        start = 0
        for round_index, values in losses.items():
            steps = np.arange(start + 1, start + len(values) + 1)
            axes.plot(steps, values, color=AFTER, linewidth=1.8)
            axes.axvline(start + 0.5, color=LINE, linewidth=1)
            axes.text(
                start + 0.5, 1.02, f" round {round_index}", transform=axes.get_xaxis_transform(),
                color=MUTED, fontsize=10, va="bottom",
            )  # fmt: skip
            start += len(values)
        axes.set_xlim(0.5, max(start, 1) + 0.5)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("training loss")
        axes.grid(visible=False, axis="x")
        ends = "; ".join(
            f"round {r} from {values[0]:.2f} to {values[-1]:.2f}"
            for r, values in losses.items()
            if values
        )
        return finished_plot(
            figure,
            title="Loss while the target was tuned",
            text=f"{_LOSSES.get(objective, 'Loss')}: {ends}.",
            name=name,
        )


def trade_off(curves: Mapping[str, Sequence[TradeOffPoint]], *, name: str) -> Plot:
    """Draw what the best possible membership test can reach against each client's releases.

    Args:
        curves: Points by client, in rising order of false positive rate.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot; clients with the same curve share a line.
    """
    together: dict[tuple[TradeOffPoint, ...], list[str]] = {}
    for client, points in curves.items():
        together.setdefault(tuple(points), []).append(client)
    texts = []
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(4.2, 2.7)
        axes.plot([0, 100], [100, 0], color=MUTED, linewidth=1, label="nothing learnt")
        for (points, clients), colour in zip(
            together.items(), itertools.cycle((AFTER, BEFORE, DROPPED)), strict=False
        ):
            alarms = [100 * point.false_positive_rate for point in points]
            missed = [100 * point.false_negative_rate for point in points]
            axes.plot(alarms, missed, color=colour, linewidth=1.8, label=", ".join(clients[:2]))
            found = 100 - float(np.interp(_FALSE_ALARMS, alarms, missed))
            texts.append(
                f"With {_FALSE_ALARMS} % false alarms no test recognises more than "
                f"{_up(found):.1f} % of the units of {', '.join(clients)}"
            )
        axes.set_xlabel("false alarms, %")
        axes.set_ylabel("missed, at least, %")
        legend_above(axes)
        return finished_plot(
            figure,
            title="What any test for one unit's presence can reach",
            text=f"{'; '.join(texts)}. That is a bound for whoever knows everything else.",
            name=name,
        )


def arm_intervals(*, untuned: Interval, tuned: Interval, title: str, text: str, name: str) -> Plot:
    """Draw one metric of both arms, each as a point with its interval.

    Args:
        untuned: The metric of the target as it is.
        tuned: The metric of the tuned target, which is drawn below.
        title: What the plot shows.
        text: What one sees in it, for those who do not.
        name: Name of the drawing, unique in the page.

    Returns:
        The plot, small enough for a cell of a table.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(2.4, 0.95)
        for row, (interval, colour) in enumerate(((tuned, AFTER), (untuned, BEFORE))):
            axes.hlines(row, interval.low, interval.high, color=colour, linewidth=7, alpha=0.35)
            axes.plot(interval.mean, row, "o", color=colour, markersize=8)
        axes.set_yticks([])
        axes.set_ylim(-0.6, 1.6)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(nbins=4))
        return finished_plot(figure, title=title, text=text, name=name)


def _bin_edges(values: Sequence[float]) -> Any:  # numpy's array of edges
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:  # a constant reward still makes one visible bar
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 25)


def _up(percentage: float) -> float:
    """Round up to one decimal: a bound that is rounded down is none. Not for noise of floats."""
    return math.ceil(10 * percentage - 1e-9) / 10


def _median(values: Sequence[float]) -> str:
    return f"{float(np.median(values)):.2f}" if values else "none"
