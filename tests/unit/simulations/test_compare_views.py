"""Tables in which names give way to numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from server_side.measuring.comparing import ComparingConfig, Comparison, compare_runs
from simulations.compare_views import notes, show_comparison
from tests.support.arms import run_of


def compared() -> Comparison:
    runs = [
        run_of("dp_generate", [0.1, 0.2]),
        run_of("ablation_generator_budget", [0.2, 0.4]),
        run_of("private_no_dp", [0.5, 0.6], tuned_on="private_records"),
    ]
    return compare_runs(runs, config=ComparingConfig(num_resamples=50, num_permutations=9))


def shown(*, is_terminal: bool, width: int = 80) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None
    )
    show_comparison(compared(), "rougeL", console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_terminal_of_80_columns_gets_whole_intervals_in_80_columns() -> None:
    lines = shown(is_terminal=True)

    assert max(map(len, lines)) <= 80
    assert sum("0.200 to 0.400" in line for line in lines) == 1
    assert sum("+0.100 to +0.200" in line for line in lines) == 1


@pytest.mark.parametrize("width", [100, 75, 60, 40, 20])
def test_names_give_way_to_numbers_and_no_number_is_cut(width: int) -> None:
    lines = shown(is_terminal=True, width=width)

    assert sum("0.200 to 0.400" in line for line in lines) == 1
    assert sum("+0.100 to +0.200" in line for line in lines) == 1
    assert sum(line.startswith("ablation_gen") for line in lines) == 1
    assert not any("…" in line for line in lines)


def test_a_pipe_gets_the_width_that_the_table_needs() -> None:
    lines = shown(is_terminal=False)

    (own,) = [line for line in lines if line.startswith("ablation_generator_budget ")]
    assert "0.300" in own
    assert max(map(len, lines)) > 80


def test_notes_tell_the_confidence_level_as_it_was_set() -> None:
    config = ComparingConfig(num_resamples=50, num_permutations=9, confidence_level=0.975)
    runs = [run_of("dp_generate", [0.1, 0.2]), run_of("ablation_generator_budget", [0.2, 0.4])]

    assert any("97.5% of 50 resamples" in line for line in notes(compare_runs(runs, config=config)))
