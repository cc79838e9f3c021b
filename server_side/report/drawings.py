"""Which plots the report has, and what goes into each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from protocol.accounting import TradeOffPoint, trade_off_curve
from server_side.dataset_export import guarantees
from server_side.report.formats import metric_value
from server_side.report.inputs import Comparison, ReportInputs
from server_side.report.plots import (
    arm_intervals,
    loss_curve,
    reward_by_round,
    reward_histogram,
    reward_scatter,
    trade_off,
)
from server_side.report.svg import Plot


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawings:
    """All plots of a report, by place."""

    metrics: dict[str, Plot]
    """Both arms' intervals, by the metric's key."""
    histograms: tuple[Plot, ...]
    """Rewards before and after filtering, one a round."""
    ranking: tuple[Plot, ...]
    """What the rewards of the first round go along with, and how the pool's rewards grow."""
    trade_off: Plot
    """What a test for one unit's presence can reach, by client."""
    loss: Plot | None
    """Loss while the target was tuned; None where no step was logged."""


def draw_plots(inputs: ReportInputs) -> Drawings:
    """Draw everything."""
    return Drawings(
        metrics={comparison.key: _metric(comparison) for comparison in inputs.comparisons},
        histograms=tuple(
            reward_histogram(
                before=[item.reward for item in scored],
                after=[sample.chosen_reward for sample in inputs.pools.get(round_index, ())],
                round_index=round_index,
                name=f"rewards{round_index}",
            )
            for round_index, scored in inputs.scored.items()
        ),
        ranking=_ranking(inputs),
        trade_off=trade_off(_trade_off_curves(inputs), name="trade-off"),
        loss=loss_curve(
            inputs.losses, objective=inputs.setting("finetuning", "objective"), name="loss"
        )
        if any(inputs.losses.values())
        else None,
    )


def _trade_off_curves(inputs: ReportInputs) -> dict[str, tuple[TradeOffPoint, ...]]:
    ledgers = guarantees(inputs.certificates)
    events = {name: certificate.privacy.events for name, certificate in ledgers.items()}
    curves = {listed: trade_off_curve(listed) for listed in set(events.values())}
    return {client: curves[listed] for client, listed in events.items()}


def _metric(comparison: Comparison) -> Plot:
    key, untuned, tuned = comparison.key, comparison.untuned, comparison.tuned
    return arm_intervals(
        untuned=untuned,
        tuned=tuned,
        title=f"{comparison.name}, untuned above tuned",
        text=f"Untuned {metric_value(untuned.mean, key)}, tuned "
        f"{metric_value(tuned.mean, key)}; bars are the intervals.",
        name=f"metric-{key}",
    )


def _ranking(inputs: ReportInputs) -> tuple[Plot, ...]:
    plots = []
    filled = {r: [s.chosen_reward for s in pool] for r, pool in inputs.pools.items() if pool}
    if filled:
        plots.append(reward_by_round(filled, name="pool"))
    first = min(inputs.scored, default=None)
    scored = inputs.scored[first] if first is not None else ()
    if not scored or first is None:
        return tuple(plots)
    kept = {sample.chosen_candidate_id for sample in inputs.pools.get(first, ())}
    rewards = [item.reward for item in scored]
    is_kept = [item.candidate.candidate_id in kept for item in scored]
    for label, is_log, values in (
        ("perplexity", True, [item.perplexity for item in scored]),
        ("length in words", False, [len(item.candidate.response.split()) for item in scored]),
    ):
        plots.append(
            reward_scatter(
                values=values,
                rewards=rewards,
                is_kept=is_kept,
                label=label,
                is_log=is_log,
                correlation=_rank_correlation(values, rewards),
                name=f"scatter-{label.split()[0]}",
            )
        )
    return tuple(plots)


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(set(first)) < 2 or len(set(second)) < 2:  # a constant has no ranks
        return None
    value = float(stats.spearmanr(first, second).statistic)
    return None if np.isnan(value) else value
