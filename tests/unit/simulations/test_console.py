"""The console: plain and sparing where there is no terminal, and a table that fits 80 columns."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from client_side.folder import ClientFolder
from protocol.ledger import ProxyKind
from server_side.config import ServerConfig
from server_side.exchange.starts import forget_start_progress, note_start_progress
from simulations.console import SimulationConsole, describe_client, describe_stage, refusals
from simulations.prepare import World


def plain() -> tuple[SimulationConsole, io.StringIO]:
    output = io.StringIO()
    return SimulationConsole(console=Console(file=output, width=80)), output


def world(tmp_path: Path) -> World:
    (tmp_path / "client-1").mkdir()
    return World(
        clients=(ClientFolder(path=tmp_path / "client-1"),),
        num_records=(1,),
        server_folder=tmp_path,
        server=ServerConfig(),
        num_overlapping=0,
        num_evaluation=1,
    )


def arm(mean: float, spread: float = 0.01) -> dict[str, dict[str, float]]:
    value = {"mean": mean, "low": mean - spread, "high": mean + spread}
    return dict.fromkeys(("rouge1", "rouge2", "rougeL", "bleu", "perplexity"), value)


def judged(difference: float = 0.1, *, spread: float = 0.01) -> dict[str, object]:
    return {
        "untuned": arm(0.1, spread),
        "tuned": arm(0.1 + difference, spread),
        "difference": arm(difference),
        "privacy": {},
    }


def test_progress_of_one_stage_is_not_repeated_at_every_step() -> None:
    console, output = plain()

    with console:
        console.start("07_queries")
        for done in range(100):
            console.advance(done, 100)
        console.end("07_queries", seconds=1.0, was_whole=False)

    assert len(output.getvalue().splitlines()) <= 3


def test_no_time_is_foretold_from_the_first_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they took is mostly the loading of models."""
    monkeypatch.setattr("simulations.console._LINE_SECONDS", 0.0)
    console, output = plain()

    with console:
        console.start("13_tuned")
        for done in (1, 7, 8):
            console.advance(done, 160)

    _, first, below, enough = output.getvalue().splitlines()
    assert "left" not in first + below
    assert "8/160" in enough
    assert "left" in enough


def test_output_without_a_terminal_has_no_control_characters(tmp_path: Path) -> None:
    console, output = plain()
    here = world(tmp_path)
    here.clients[0].write_status({"proxy": "reward", "phase": "training", "done": 1, "total": 4})

    with console:
        console.look_at_exchange(here)
        console.start("08_candidates_r2")
        console.advance(1, 2)

    assert "\x1b" not in output.getvalue()
    assert "client-1: reward proxy, training 1/4" in output.getvalue()


def test_results_fit_80_columns_and_name_what_counts(tmp_path: Path) -> None:
    console, output = plain()
    metrics = judged() | {"privacy": {"client-1": {"epsilon": 7.99, "delta": 1e-5}}}

    console.show_results(metrics, run_folder=tmp_path)

    lines = output.getvalue().splitlines()
    assert max(len(line) for line in lines if "report" not in line and "metrics" not in line) <= 80
    assert "7.99" in output.getvalue()
    assert str(tmp_path / "report.html") in output.getvalue()


@pytest.mark.parametrize(
    ("difference", "higher", "lower"),
    [(0.1, "yes", "no"), (-0.1, "no", "yes"), (0.005, "not clear", "not clear")],
)
@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_better_is_what_rows_that_both_answered_say_and_lower_for_perplexity(
    spread: float, difference: float, higher: str, lower: str, tmp_path: Path
) -> None:
    """Intervals of the arms may overlap as they like: their rows differ from one another."""
    console, output = plain()

    console.show_results(judged(difference, spread=spread), run_folder=tmp_path)

    cells = [line.strip("│ ").split("│") for line in output.getvalue().splitlines() if "│" in line]
    verdicts = {row[0].strip(): row[-1].strip() for row in cells}
    assert (verdicts["rougeL"], verdicts["perplexity"]) == (higher, lower)


def test_pass_rates_are_shown_where_tests_were_run(tmp_path: Path) -> None:
    console, output = plain()
    low, high = ({"5": arm(mean)["bleu"]} for mean in (0.1, 0.2))
    tested = {name: {"pass_at_k": low} for name in ("untuned", "difference")}
    tested |= {"tuned": {"pass_at_k": high}, "privacy": {}}

    console.show_results(tested, run_folder=tmp_path)
    console.show_results(judged(), run_folder=tmp_path)

    (line,) = (line for line in output.getvalue().splitlines() if "pass@" in line)
    assert "pass@5" in line
    assert "yes" in line


def test_how_rewards_follow_length_is_told(tmp_path: Path) -> None:
    console, output = plain()
    figures = {"09_scored_r1": {"reward_length_correlation": 0.314}}
    metrics = judged() | {"figures": figures}

    console.show_results(metrics, run_folder=tmp_path)

    assert "within a prompt: +0.31 (round 1, rewards and perplexities)." in output.getvalue()


def test_the_time_left_of_a_client_follows_from_the_steps_that_were_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before were another process's; between two steps nothing new is known."""
    monkeypatch.setattr("simulations.console._LINE_SECONDS", 0.0)
    clock = [1000.0]
    monkeypatch.setattr("simulations.console.time.monotonic", lambda: clock[0])
    console, output = plain()
    here = world(tmp_path)

    for seconds, done in ((0, 7), (5, 7), (25, 8), (10, 8), (20, 9)):
        clock[0] += seconds
        here.clients[0].write_status(
            {"proxy": "generator", "phase": "training", "done": done, "total": 12}
        )
        console.look_at_exchange(here)

    assert output.getvalue().splitlines() == [
        "  client-1: generator proxy, training 7/12",
        "  client-1: generator proxy, training 8/12, 2 min 0 s left",
        "  client-1: generator proxy, training 9/12, 1 min 30 s left",
    ]


def test_a_client_that_begins_another_phase_is_timed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.console._LINE_SECONDS", 0.0)
    console, output = plain()
    here = world(tmp_path)

    for phase, done in (("sampling", 0), ("sampling", 5), ("training", 5), ("training", 1)):
        here.clients[0].write_status({"proxy": "reward", "phase": phase, "done": done, "total": 9})
        console.look_at_exchange(here)

    told = ["left" in line for line in output.getvalue().splitlines()]
    assert told == [False, True, False, False]


def test_the_tuning_of_starting_weights_is_shown_while_it_lasts(tmp_path: Path) -> None:
    console, output = plain()
    here = world(tmp_path)
    note_start_progress(here.server_folder, ProxyKind.REWARD, "sampling", 3, 122)

    console.look_at_exchange(here)
    forget_start_progress(here.server_folder)
    console.look_at_exchange(here)

    assert output.getvalue() == (
        "  server: starting weights, reward proxy, sampling negatives 3/122\n"
    )


def test_a_half_written_status_is_passed_over(tmp_path: Path) -> None:
    console, output = plain()
    here = world(tmp_path)
    here.clients[0].status_file.write_text('{"phase": "tr', encoding="utf-8")

    console.look_at_exchange(here)

    assert output.getvalue() == ""


def test_a_refusal_is_shown_with_its_reason(tmp_path: Path) -> None:
    here = world(tmp_path)
    here.clients[0].write_status({"phase": "refused", "code": "internal", "reason": "No file."})

    assert refusals(here) == ["client-1: No file."]


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("07_queries", "prompts from the generators"),
        ("11_target_r2", "round 2, tuning the target"),
        ("99_other", "99_other"),
    ],
)
def test_stages_are_named_for_people(stage: str, text: str) -> None:
    assert describe_stage(stage) == text


def test_a_client_is_described_by_proxy_phase_progress_and_price() -> None:
    status = {"proxy": "generator", "phase": "sampling", "done": 3, "total": 9, "epsilon": 1.234}

    assert describe_client(status) == "generator proxy, sampling negatives 3/9, ε spent 1.23"
