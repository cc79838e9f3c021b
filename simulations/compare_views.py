"""A comparison of arms for people and programs: a table for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from server_side.evaluation import Metric
from server_side.measuring.comparing import ArmFigure, ArmResult, Comparison
from server_side.measuring.intervals import Interval
from server_side.measuring.measures import is_lower_better
from simulations.compare_judging import ArmVerdict

_MAX_SENTENCE: Final = 80
"""Greatest width of sentences; tables take what the terminal has."""
_UNBOUNDED: Final = 1000
"""Width of what is no terminal: more than any table needs."""
_LEAST_NAME: Final = 12
"""Characters that a name's column keeps in the narrowest terminal."""
_MARK: Final = "†"
_MARK_NOTE: Final = (
    f"{_MARK} Uses the private records themselves. It exists in simulation only, to compare with."
)
_DECIMALS: Final[dict[str, int]] = {Metric.BLEU: 2, Metric.PERPLEXITY: 2}
_TITLES: Final = ("arm", "value", "difference", "p", "ahead", "gap closed")
_JUDGED_TITLES: Final = ("arm", "win rate", "wins", "ties", "losses", "unusable", "ahead")
_WIN_RATE: Final = "win rate"


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


def show_verdicts(
    verdicts: Mapping[str, ArmVerdict], comparison: Comparison, *, console: Console | None = None
) -> None:
    """Print how often a judge preferred each arm's answers to the reference's.

    Args:
        verdicts: By arm, how it was judged.
        comparison: The arms.
        console: Where to print; None takes standard output.
    """
    title = f"{_WIN_RATE} against {comparison.config.reference}, {_direction(_WIN_RATE)}"
    rows = _judged_rows(verdicts, comparison, break_by="\n")
    _show_table(title, _JUDGED_TITLES, rows, console=console or Console())
    show_lines(verdict_notes(verdicts, comparison), console=console)


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
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    name, *numbers = titles
    table.add_column(name, overflow="fold", min_width=_LEAST_NAME)
    least = _LEAST_NAME + 1
    for at, number in enumerate(numbers, start=1):
        needed = max(len(line) for row in rows for line in (number, *row[at].split("\n")))
        table.add_column(number, justify="right", no_wrap=True, min_width=needed)
        least += needed + 1
    for row in rows:
        table.add_row(*map(Text, row))
    # Names give way, and then the edge: a number that is cut would be another number.
    before = console.width
    console.width = max(least, before) if console.is_terminal else _UNBOUNDED
    console.print(table, crop=False)
    console.width = before


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
        f"Intervals: {100 * config.confidence_level:.10g}% of {config.num_resamples} resamples of "
        f"rows and seeds. Difference: to {config.reference}, paired. p: two-sided, by exchanging "
        "both arms within rows. Ahead: seeds in which the arm beats the reference. Saw: samples "
        "that went through the model in tuning, which arms should have in common.",
    ]
    if any(arm.arm == config.ceiling for arm in comparison.arms):
        lines.append(
            f"Gap closed: from the untuned target (0 %) to {config.ceiling} (100 %); not told "
            "where that is no better than the untuned target."
        )
    if any(arm.uses_private_records for arm in comparison.arms):
        lines.append(_MARK_NOTE)
    return lines


def verdict_notes(verdicts: Mapping[str, ArmVerdict], comparison: Comparison) -> list[str]:
    """Say who judged, what the columns mean and how far the judge is to be trusted.

    Args:
        verdicts: By arm, how it was judged.
        comparison: The arms.

    Returns:
        Sentences, for below a table.
    """
    totals = [verdict.total for verdict in verdicts.values()]
    ties, contradictions, unusable, decided = (
        sum(getattr(total, f"num_{name}") for total in totals)
        for name in ("ties", "contradictions", "unanswered", "wins")
    )
    asked = ties + unusable + decided + sum(total.num_losses for total in totals)
    lines = [
        f"Judge: {', '.join(sorted({total.judge for total in totals}))}, on public test prompts "
        "and sampled answers. Win rate: wins and half the ties ÷ pairs with a usable answer, over "
        "all rows and seeds; 0.5 is no preference. Ahead: seeds with more than that.",
        "Each pair is asked twice, the second time with the answers swapped. Ties that are "
        f"contradictions between the two: {contradictions} of {ties}.",
    ]
    if unusable == asked:
        lines.append("The judge said nothing usable about any pair: there is no win rate.")
    return lines


def verdicts_as_markdown(verdicts: Mapping[str, ArmVerdict], comparison: Comparison) -> str:
    """Return how a judge preferred the arms as a Markdown table with its notes.

    Args:
        verdicts: By arm, how it was judged.
        comparison: The arms.

    Returns:
        Text that ends with a line break.
    """
    return _markdown(
        f"**{_WIN_RATE}** against {comparison.config.reference}, {_direction(_WIN_RATE)}",
        _JUDGED_TITLES,
        _judged_rows(verdicts, comparison, break_by="<br>"),
        verdict_notes(verdicts, comparison),
    )


def as_markdown(comparison: Comparison, measure: str) -> str:
    """Return how all arms did by one measure as a Markdown table with its notes.

    Args:
        comparison: The arms.
        measure: Which measure.

    Returns:
        Text that ends with a line break.
    """
    return _markdown(
        f"**{measure}**, {_direction(measure)}",
        _TITLES,
        [_cells(arm, measure, comparison, break_by="<br>") for arm in comparison.arms],
        notes(comparison),
    )


def _markdown(
    title: str, titles: Sequence[str], rows: Sequence[Sequence[str]], sentences: Sequence[str]
) -> str:
    head = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([title, "", *head, *body, "", *(f"{line}  " for line in sentences), ""])


def as_csv(comparison: Comparison, verdicts: Mapping[str, ArmVerdict] | None = None) -> str:
    """Return every arm and measure as comma-separated values, one line each.

    Args:
        comparison: The arms.
        verdicts: By arm, how a judge preferred it to the reference; None where none was asked.

    Returns:
        Text with a header; what does not exist is empty.
    """
    names = ("value", "difference", "gap_closed")
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    counts = ("num_wins", "num_ties", "num_losses", "num_contradictions", "num_unanswered")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["arm", "tuned_on", "metric", *ends, "p_value", "num_seeds_ahead", "seeds", "num_rows",
         "reference", "by_seed", "samples_seen", "judge", *counts]
    )  # fmt: skip
    facts = [_joined(comparison.seeds), comparison.num_rows, comparison.config.reference]
    for arm in comparison.arms:
        for measure, figure in arm.figures.items():
            intervals = (figure.value, figure.difference, figure.gap_closed)
            writer.writerow(
                [arm.arm, arm.tuned_on, measure, *_numbers(intervals), figure.p_value,
                 figure.num_seeds_ahead, *facts, _joined(figure.by_seed.values()),
                 _joined(arm.samples_seen), "", *("" for _ in counts)]
            )  # fmt: skip
        if verdicts and (verdict := verdicts.get(arm.arm)):
            total = verdict.total
            writer.writerow(
                [arm.arm, arm.tuned_on, "win_rate", *_numbers((total.rate, None, None)), None,
                 verdict.num_seeds_ahead, *facts, _joined(verdict.by_seed.values()),
                 _joined(arm.samples_seen), total.judge,
                 *(getattr(total, name) for name in counts)]
            )  # fmt: skip
    return text.getvalue()


def _numbers(intervals: Iterable[Interval | None]) -> list[float | str]:
    numbers: list[float | str] = []
    for interval in intervals:
        numbers += (interval.mean, interval.low, interval.high) if interval else ("", "", "")
    return numbers


def _judged_rows(
    verdicts: Mapping[str, ArmVerdict], comparison: Comparison, *, break_by: str
) -> list[list[str]]:
    rows = []
    for arm in comparison.arms:
        if (verdict := verdicts.get(arm.arm)) is None:
            continue
        total = verdict.total
        counts = (total.num_wins, total.num_ties, total.num_losses, total.num_unanswered)
        rate = _with_interval(total.rate, lambda v: f"{v:.3f}", break_by)
        ahead = f"{verdict.num_seeds_ahead}/{len(comparison.seeds)}"
        rows.append([_name(arm), rate, *map(str, counts), ahead])
    return rows


def _cells(arm: ArmResult, measure: str, comparison: Comparison, *, break_by: str) -> list[str]:
    figure, decimals = arm.figures[measure], _DECIMALS.get(measure, 3)
    name = _name(arm)
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


def _name(arm: ArmResult) -> str:
    return arm.arm + (f" {_MARK}" if arm.uses_private_records else "")


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
