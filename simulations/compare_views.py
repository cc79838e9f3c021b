"""A comparison of arms for people and programs: a table for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from server_side.evaluation import Metric
from server_side.measuring.comparing import ArmFigure, ArmResult, Comparison
from server_side.measuring.intervals import Interval
from server_side.measuring.measures import is_lower_better
from simulations.compare_layout import lay_out

_MAX_SENTENCE: Final = 80
"""Greatest width of sentences; tables take what the terminal has."""
_MARK: Final = "†"
_MARK_NOTE: Final = (
    f"{_MARK} Uses the private records themselves. It exists in simulation only, to compare with."
)
_DECIMALS: Final[dict[str, int]] = {Metric.BLEU: 2, Metric.PERPLEXITY: 2}
_TITLES: Final = ("arm", "value", "difference", "p", "ahead", "gap closed")


def show_comparison(
    comparison: Comparison, measure: str, *, console: Console | None = None
) -> None:
    """Print how all arms did by one measure.

    Args:
        comparison: The arms.
        measure: Which measure.
        console: Where to print; None takes standard output.
    """
    title = f"{measure}, {_direction(measure)}"
    rows = [_cells(arm, measure, comparison, break_by="\n") for arm in comparison.arms]
    _show_table(title, _TITLES, rows, console=console or Console())
    show_lines(notes(comparison), console=console)


def show_lines(lines: Sequence[str], *, console: Console | None = None) -> None:
    """Print sentences, a line or more each, and an empty line after them.

    Args:
        lines: The sentences; of none nothing is printed.
        console: Where to print; None takes standard output.
    """
    console = console or Console()
    for line in lines:
        console.print(Text(line), width=min(console.width, _MAX_SENTENCE))
    if lines:
        console.print()


def _show_table(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, console: Console
) -> None:
    width = console.width if console.is_terminal else None
    console.print(Text(title, style="italic"), soft_wrap=True)
    for number, line in enumerate(lay_out(titles, rows, width=width)):
        console.print(Text(line, style="" if number else "bold"), soft_wrap=True)


def notes(comparison: Comparison) -> list[str]:
    """Say what the columns mean and what stands behind them.

    Args:
        comparison: The arms.

    Returns:
        Sentences, for below a table.
    """
    config, seeds = comparison.config, comparison.seeds
    left_out = (
        f" {comparison.num_rows_left_out} that not all arms judged were left out."
        if comparison.num_rows_left_out
        else ""
    )
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; {comparison.num_rows} rows judged by all arms, over "
        f"all seeds.{left_out}",
        f"Intervals: {config.confidence_level:.0%} of {config.num_resamples} resamples of rows and "
        f"seeds. Difference: to {config.reference}, paired. p: two-sided, by exchanging both arms "
        "within rows. Ahead: seeds in which the arm beats the reference. Saw: samples that went "
        "through the model in tuning, which arms should have in common.",
    ]
    if any(arm.arm == config.ceiling for arm in comparison.arms):
        lines.append(
            f"Gap closed: from the untuned target (0 %) to {config.ceiling} (100 %); not told "
            "where that is no better than the untuned target."
        )
    if any(arm.uses_private_records for arm in comparison.arms):
        lines.append(_MARK_NOTE)
    return lines


def as_markdown(comparison: Comparison, measure: str) -> str:
    """Return how all arms did by one measure as a Markdown table with its notes.

    Args:
        comparison: The arms.
        measure: Which measure.

    Returns:
        Text that ends with a line break.
    """
    lines = [
        f"**{measure}**, {_direction(measure)}",
        "",
        f"| {' | '.join(_TITLES)} |",
        f"| --- |{' ---: |' * (len(_TITLES) - 1)}",
    ]
    for arm in comparison.arms:
        lines.append(f"| {' | '.join(_cells(arm, measure, comparison, break_by='<br>'))} |")
    return "\n".join([*lines, "", *(f"{line}  " for line in notes(comparison)), ""])


def as_csv(comparison: Comparison) -> str:
    """Return every arm and measure as comma-separated values, one line each.

    Args:
        comparison: The arms.

    Returns:
        Text with a header; what does not exist is empty.
    """
    names = ("value", "difference", "gap_closed")
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["arm", "tuned_on", "metric", *ends, "p_value", "num_seeds_ahead", "seeds", "num_rows",
         "reference", "by_seed", "samples_seen"]
    )  # fmt: skip
    for arm in comparison.arms:
        for measure, figure in arm.figures.items():
            numbers: list[float | str] = []
            for interval in (figure.value, figure.difference, figure.gap_closed):
                if interval is None:
                    numbers += ["", "", ""]
                else:
                    numbers += [interval.mean, interval.low, interval.high]
            writer.writerow(
                [arm.arm, arm.tuned_on, measure, *numbers, figure.p_value,
                 figure.num_seeds_ahead, _joined(comparison.seeds), comparison.num_rows,
                 comparison.config.reference, _joined(figure.by_seed.values()),
                 _joined(arm.samples_seen)]
            )  # fmt: skip
    return text.getvalue()


def _cells(arm: ArmResult, measure: str, comparison: Comparison, *, break_by: str) -> list[str]:
    figure, decimals = arm.figures[measure], _DECIMALS.get(measure, 3)
    name = arm.arm + (f" {_MARK}" if arm.uses_private_records else "")
    if arm.samples_seen:
        low, high = min(arm.samples_seen), max(arm.samples_seen)
        seen = f"{low}" if low == high else f"{low} to {high}"
        name += f"{break_by}  saw {seen}"
    return [
        name,
        _with_interval(figure.value, lambda v: f"{v:.{decimals}f}", break_by),
        _with_interval(figure.difference, lambda v: f"{v:+.{decimals}f}", break_by),
        _p_value(figure.p_value),
        _ahead(figure, len(comparison.seeds)),
        _with_interval(figure.gap_closed, lambda v: f"{100 * v:.0f} %", break_by),
    ]


def _with_interval(interval: Interval | None, write: Callable[[float], str], break_by: str) -> str:
    if interval is None:
        return ""
    ends = f"{write(interval.low)} to {write(interval.high)}"
    return f"{write(interval.mean)}{break_by}{ends}"


def _p_value(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "<.001"


def _ahead(figure: ArmFigure, num_seeds: int) -> str:
    return "" if figure.num_seeds_ahead is None else f"{figure.num_seeds_ahead}/{num_seeds}"


def _direction(measure: str) -> str:
    return "lower is better" if is_lower_better(measure) else "higher is better"


def _joined(values: Iterable[float]) -> str:
    return " ".join(str(value) for value in values)
