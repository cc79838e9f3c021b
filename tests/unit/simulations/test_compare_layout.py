"""Tables in which names give way to numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from server_side.measuring.comparing import ComparingConfig, Comparison, compare_runs
from simulations.compare_layout import lay_out
from simulations.compare_views import show_comparison
from tests.support.arms import run_of

TITLES = ("arm", "value", "difference", "p", "ahead", "gap closed")
NUMBERS = [
    "0.123\n0.101 to 0.145",
    "+0.015\n-0.011 to +0.027",
    "0.035",
    "12/12",
    "75 %\n-71 % to 387 %",
]
NAMES = ["untuned", "ablation_generator_budget †\n  saw 101 to 102"]
ROWS = [[name, *NUMBERS] for name in NAMES]
PIECES = [line for cell in NUMBERS for line in cell.split("\n")]


@pytest.mark.parametrize("width", [None, 100, 82, 80, 75, 60, 40, 20])
def test_no_number_is_cut_at_any_width(width: int | None) -> None:
    lines = lay_out(TITLES, ROWS, width=width)

    text = "\n".join(lines)
    assert all(text.count(piece) == len(ROWS) for piece in PIECES)
    assert "…" not in text


@pytest.mark.parametrize("width", [100, 82, 80, 75, 70])
def test_a_table_keeps_to_a_width_that_holds_its_numbers(width: int) -> None:
    assert max(map(len, lay_out(TITLES, ROWS, width=width))) <= width


def test_a_long_name_wraps_at_its_underscores() -> None:
    lines = lay_out(TITLES, ROWS, width=78)

    assert [line[:20].rstrip() for line in lines[3:]] == [
        "ablation_generator_",
        "  budget †",
        "  saw 101 to 102",
    ]


def test_a_name_without_room_stands_above_its_numbers() -> None:
    lines = lay_out(TITLES, ROWS, width=66)

    assert "ablation_generator_budget †, saw 101 to 102" in lines


def test_without_a_width_a_name_stays_in_one_piece() -> None:
    assert any(line.startswith("ablation_generator_budget † ") for line in lay_out(TITLES, ROWS))


def compared() -> Comparison:
    runs = [
        run_of("dp_generate", [0.1, 0.2]),
        run_of("ablation_generator_budget", [0.2, 0.4]),
        run_of("private_no_dp", [0.5, 0.6], tuned_on="private_records"),
    ]
    return compare_runs(runs, config=ComparingConfig(num_resamples=50, num_permutations=9))


def shown(*, is_terminal: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal, color_system=None)
    show_comparison(compared(), "rougeL", console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_terminal_of_80_columns_gets_whole_intervals_in_80_columns() -> None:
    lines = shown(is_terminal=True)

    assert max(map(len, lines)) <= 80
    assert sum("0.200 to 0.400" in line for line in lines) == 1
    assert sum("+0.100 to +0.200" in line for line in lines) == 1


def test_a_pipe_gets_the_width_that_the_table_needs() -> None:
    lines = shown(is_terminal=False)

    (own,) = [line for line in lines if line.startswith("ablation_generator_budget ")]
    assert "0.300" in own
    assert max(map(len, lines)) > 80
