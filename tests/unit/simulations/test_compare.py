"""`rewardds-compare` on run folders as a simulation leaves them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from server_side.evaluation import Metric
from server_side.measuring.comparing import ArmRun
from simulations.compare import main
from tests.support.arms import run_of
from tests.support.compared_runs import write_run

VALUES = [0.11, 0.25, 0.31, 0.18, 0.42, 0.27, 0.36, 0.22]
Write = Callable[[str, ArmRun], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_named(name: str, run: ArmRun) -> Path:
        return write_run(tmp_path / "sweep" / name, run)

    return write_named


@pytest.fixture
def sweep(write: Write, tmp_path: Path) -> Path:
    better = [value + 0.01 * (i + 1) for i, value in enumerate(VALUES)]
    for seed in (1, 2):
        write(f"{seed}0", run_of("dp_generate", VALUES, seed=seed))
        write(f"{seed}1", run_of("ablation_generator_budget", better, seed=seed))
        best = run_of("private_no_dp", [0.9] * 8, seed=seed, tuned_on="private_records")
        write(f"{seed}2", best)
    return tmp_path / "sweep"


def test_a_sweep_is_compared_arm_by_arm(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--resamples", "100", "--permutations", "99"])

    shown = capsys.readouterr().out
    assert "rougeL, higher is better" in shown
    assert "perplexity, lower is better" in shown
    assert "ablation_generator_budget" in shown
    assert "saw 101 to 102" in shown
    assert "2/2" in shown
    assert "private_no_dp †" in shown
    assert "simulation only" in " ".join(shown.split())


def test_without_an_arm_on_private_records_nothing_speaks_of_it(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*(str(sweep / name) for name in ("10", "11")), "--resamples", "50"])

    shown = capsys.readouterr().out
    assert "†" not in shown
    assert "Gap closed" not in shown


def test_pass_rates_are_shown_first_where_tests_were_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("0", run_of("dp_generate", VALUES, passed=[0, 1] * 4))
    write("1", run_of("rewardds", VALUES, passed=[1, 1] * 4))
    words = [str(tmp_path / "sweep"), "--resamples", "50", "--permutations", "99"]

    main(words)
    shown = capsys.readouterr().out
    main([*words, "--metric", "pass@2"])

    assert shown.startswith("pass@1, higher is better")
    assert "rougeL" in shown
    assert "pass@2" in capsys.readouterr().out


def test_a_measure_that_not_all_runs_have_is_named(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"all runs to have pass@1, found rouge1"):
        main([str(sweep), "--resamples", "50", "--metric", "pass@1"])
    with pytest.raises(SystemExit) as caught:
        main([str(sweep), "--metric", "accuracy"])

    assert caught.value.code == 2
    assert "rougeL, bleu, perplexity or pass@K" in capsys.readouterr().err


def test_csv_has_a_line_for_each_arm_and_metric(sweep: Path, tmp_path: Path) -> None:
    main([str(sweep), "--resamples", "50", "--permutations", "99", "--csv", f"{tmp_path}/a.csv"])

    with (tmp_path / "a.csv").open(newline="") as file:
        lines = {(line["arm"], line["metric"]): line for line in csv.DictReader(file)}
    assert len(lines) == 4 * len(Metric)
    arm = lines["ablation_generator_budget", "rougeL"]
    assert float(arm["difference"]) == pytest.approx(0.045)
    assert arm["by_seed"].count(" ") == 1
    assert arm["samples_seen"] == "101 102"
    assert lines["dp_generate", "rougeL"]["p_value"] == ""


def test_markdown_holds_the_shown_metric(sweep: Path, tmp_path: Path) -> None:
    main(
        [str(sweep), "--resamples", "50", "--permutations", "99", "--metric", "bleu",
         "--markdown", f"{tmp_path}/a.md"]
    )  # fmt: skip

    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "**bleu**" in text
    assert "rougeL" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + 4


def test_unfinished_runs_of_a_sweep_are_told_and_left_out(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "11" / "metrics.json").unlink()

    main([str(sweep), "--resamples", "50", "--permutations", "99"])

    assert "Runs left out because they are not finished: 1." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda sweep: (sweep / "10" / "metrics.json").unlink(), "Go on with"),
        (lambda sweep: (sweep / "10" / "simulate.yaml").unlink(), "run or of a sweep"),
        (lambda sweep: (sweep / "10" / "server" / "13_tuned.jsonl").unlink(), "13_tuned"),
        (lambda sweep: (sweep / "10" / "server" / "13_tuned.jsonl").write_text("{"), "13_tuned"),
    ],
)
def test_a_mistake_is_one_line(sweep: Path, spoil: Callable[[Path], object], named: str) -> None:
    spoil(sweep)

    with pytest.raises(SystemExit, match=named) as caught:
        main([str(sweep / "10")])
    assert len(str(caught.value).splitlines()) == 1


def test_another_reference_can_be_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(sweep), "--resamples", "50", "--permutations", "99", "--reference", "private_no_dp"])

    assert "to private_no_dp, paired" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("option", ["--reference", "--ceiling"])
def test_an_arm_that_no_run_has_is_refused_with_those_that_there_are(
    sweep: Path, option: str
) -> None:
    there = "ablation_generator_budget, dp_generate, private_no_dp"

    with pytest.raises(SystemExit, match=rf"arm nope, found {there}. .* another {option}"):
        main([str(sweep), option, "nope"])


@pytest.mark.parametrize("count", ["1e9", "1000000001", "0", "-1", "many"])
@pytest.mark.parametrize("option", ["--resamples", "--permutations"])
def test_numbers_of_draws_beyond_all_use_are_refused(
    option: str, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sweep", f"{option}={count}"])

    said = capsys.readouterr().err
    assert f"{option}: expected a whole number from 1 to 10^6, got {count}" in said


def test_a_table_that_cannot_be_written_is_said_in_words(sweep: Path) -> None:
    with pytest.raises(SystemExit, match=r"able to use \S*sweep, found: Is a directory\. Name"):
        main([str(sweep), "--resamples=50", "--permutations=99", "--csv", str(sweep)])


def test_runs_of_other_seeds_are_refused(write: Write) -> None:
    base = write("0", run_of("dp_generate", VALUES, seed=1))
    other = write("1", replace(run_of("other", VALUES, seed=1), seed=2))

    with pytest.raises(SystemExit, match="seed that all arms have"):
        main([str(base), str(other)])
