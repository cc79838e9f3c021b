"""How an audit is shown: a table of 80 columns, a plot, and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from simulations.audit.auditing import AuditResult
from simulations.audit.judging import AuditRow

RESULT_FILE: Final = "audit.json"
"""The bounds and claims, as JSON."""

PLOT_FILE: Final = "audit.svg"
"""The bounds beside the claims, as a picture."""

_WIDTH: Final = 80


def show_result(result: AuditResult, *, console: Console | None = None) -> None:
    """Print the bounds beside the claims.

    Args:
        result: The audit.
        console: Where to print; None takes standard output, 80 columns wide.
    """
    console = console or Console(width=_WIDTH, highlight=False)
    level = f"{100 * result.confidence_level:.10g}%"
    table = Table(
        title=f"Lower bounds on ε, {level} confidence, δ = {result.delta:g}", title_justify="left"
    )
    for name in ("release", "attack", "canaries"):
        table.add_column(name, no_wrap=True)
    for name in ("AUC", "bound", "of all", "claim"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(
            row.release,
            row.attack,
            row.kind,
            "" if row.area_under_curve is None else f"{row.area_under_curve:.3f}",
            f"{row.epsilon:.2f}",
            f"{row.joint_epsilon:.2f}" + ("!" if row.exceeds_claim else ""),
            f"{row.claimed_epsilon:.2f}",
        )
    console.print(table)
    console.print(
        "`bound` holds for its row alone, `of all` for all rows at once. A bound of 0 proves "
        "nothing, and no audit proves that a claim is true."
    )
    console.print(verdict(result))


def verdict(result: AuditResult) -> str:
    """Say in one sentence what the audit found.

    Args:
        result: The audit.

    Returns:
        The sentence.
    """
    best = max(result.rows, key=lambda row: row.joint_epsilon)
    broken = [row for row in result.rows if row.exceeds_claim]
    if broken:
        worst = max(broken, key=lambda row: row.joint_epsilon - row.claimed_epsilon)
        return (
            f"The claim is FALSE: attacking {worst.release} by {worst.attack} proves ε > "
            f"{worst.joint_epsilon:.2f}, claimed is {worst.claimed_epsilon:.2f}."
        )
    return (
        f"No attack contradicts its claim; the highest bound is {best.joint_epsilon:.2f} "
        f"({best.release}, {best.attack}), the composed claim {result.epsilon:.2f}."
    )


def result_values(result: AuditResult) -> dict[str, object]:
    """Give an audit as JSON values.

    Args:
        result: The audit.

    Returns:
        An object that `json` can write; a claim without noise, which is infinite, is None.
    """
    return {
        "exceeds_claim": result.exceeds_claim,
        "epsilon": _finite(result.epsilon),
        "delta": result.delta,
        "confidence_level": result.confidence_level,
        "num_included": result.num_included,
        "events": [
            {**dataclasses.asdict(event), "proxy": event.proxy.value} for event in result.events
        ],
        "rows": [
            {
                **dataclasses.asdict(row),
                "claimed_epsilon": _finite(row.claimed_epsilon),
                "exceeds_claim": row.exceeds_claim,
            }
            for row in result.rows
        ],
    }


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None  # JSON has no infinity


def write_result(result: AuditResult, folder: Path) -> None:
    """Write JSON and plot into the audit's folder; the JSON last, when all else is there.

    Args:
        result: The audit.
        folder: Where.
    """
    _plot(result.rows, folder / PLOT_FILE, confidence_level=result.confidence_level)
    part = folder / f".{RESULT_FILE}.part"
    text = json.dumps(result_values(result), indent=2, allow_nan=False)
    part.write_text(f"{text}\n", encoding="utf-8")
    part.replace(folder / RESULT_FILE)


def _plot(rows: Sequence[AuditRow], file: Path, *, confidence_level: float) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = [f"{row.release}: {row.attack} ({row.kind})" for row in rows]
    places = range(len(rows))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rewardds", "font.size": 10}):
        figure = Figure(figsize=(8, 1.2 + 0.35 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(
            places, [row.epsilon for row in rows], color="#8fb3d9", label="bound, this row alone"
        )
        axes.barh(
            places,
            [row.joint_epsilon for row in rows],
            height=0.4,
            color="#2f5f98",
            label="bound, all rows at once",
        )
        axes.scatter(
            [row.claimed_epsilon for row in rows if math.isfinite(row.claimed_epsilon)],
            [
                at
                for at, row in zip(places, rows, strict=True)
                if math.isfinite(row.claimed_epsilon)
            ],
            marker="|",
            s=180,
            color="#b03a2e",
            label="claim",
        )
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(f"ε ({100 * confidence_level:.10g}% confidence)")
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})
