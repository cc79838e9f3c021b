"""The example with Optuna: it goes on where it stopped, and keeps off private records."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir

import simulations.run  # noqa: F401 - registers the schemas
from lm.settings import to_settings
from simulations.config import SimulateConfig
from simulations.sweeps import tuning
from simulations.sweeps.tuning import STUDY_FILE, main, suggest
from tests.support.sweeping import write_point

CONF = Path(__file__).resolve().parents[4] / "conf"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Take the place of the runs; a command with `num_clients=99` fails."""
    seen: list[list[str]] = []

    def run(words: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(list(words))
        if "num_clients=99" in words:
            return subprocess.CompletedProcess(words, 1)
        (folder,) = (word.partition("=")[2] for word in words if word.startswith("run_folder="))
        write_point(Path(folder), budget="eps_8", seed=len(seen))
        return subprocess.CompletedProcess(words, 0)

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    monkeypatch.setattr(tuning.subprocess, "run", run)
    return seen


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word.startswith("client_side.generator."))


def test_what_is_suggested_is_valid_settings() -> None:
    trial = optuna.trial.FixedTrial({"rate": 0.05, "clip": 0.1, "alpha": 0.5})

    with initialize_config_dir(str(CONF), version_base=None):
        values = compose("simulate", overrides=["experiment=smoke", *suggest(trial)])

    assert to_settings(SimulateConfig, values).client_side.generator.learning_rate == 0.05


def test_a_study_goes_on_with_trials_of_its_own_and_names_the_best(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sampler that begins anew under the same seed would draw the first four again."""
    folder = tmp_path / "tuning"

    main(["--folder", str(folder), "--trials", "4", "experiment=smoke"])
    main(["--folder", str(folder), "--trials", "8", "experiment=smoke"])
    main(["--folder", str(folder), "--trials", "8", "experiment=smoke"])

    assert len(commands) == 8
    assert len({chosen(words) for words in commands}) == 8
    assert all("experiment=smoke" in words for words in commands)
    assert (folder / STUDY_FILE).is_file()
    output = capsys.readouterr().out
    assert "Best of 8 trials: perplexity" in output
    assert f"Run:      {folder / '0'}" in output  # made-up scores grow with every run


def test_a_study_without_a_run_that_ended_well_is_one_line(
    commands: list[list[str]], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--folder", str(tmp_path / "tuning"), "--trials", "1", "num_clients=99"])

    assert str(caught.value.code).startswith("Error: Expected a trial in")


def test_a_trial_that_failed_is_made_up_for_once_its_fault_is_mended(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--folder", str(tmp_path / "tuning"), "--trials", "2", "experiment=smoke"]
    with monkeypatch.context() as patch:
        patch.setattr(tuning.subprocess, "run", lambda w, **_: subprocess.CompletedProcess(w, 1))
        with pytest.raises(SystemExit):
            main(words)

    main(words)

    assert len(commands) == 2


def test_a_study_is_not_gone_on_with_under_other_settings(
    commands: list[list[str]], tmp_path: Path
) -> None:
    folder = ["--folder", str(tmp_path / "tuning"), "--trials"]
    main([*folder, "1", "experiment=smoke"])

    with pytest.raises(SystemExit) as caught:
        main([*folder, "2", "experiment=budget_curve"])

    assert "begun with, experiment=smoke, got experiment=budget_curve" in str(caught.value.code)
    assert len(commands) == 1


@pytest.mark.parametrize(
    "word",
    [
        "experiment=medical_qa",
        "client_side.records.path=mine.jsonl",
        "+client_side.records.path=mine.jsonl",
        "++client_side.records.path=mine.jsonl",
        "client_side/records=medical_qa",
        "client_side.records={path:mine.jsonl}",
    ],
)
def test_private_records_are_refused_unless_said_to_be_public(
    word: str, commands: list[list[str]], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--folder", str(tmp_path / "tuning"), "--trials", "1", word])

    assert "Expected public stand-in records" in str(caught.value.code)
    assert commands == []

    main(["--folder", str(tmp_path / "tuning"), "--trials", "1", "--records-are-public", word])

    assert len(commands) == 1


def test_a_clients_own_domain_counts_as_records_too(
    commands: list[list[str]], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(
            ["--folder", str(tmp_path / "tuning"), "--trials", "1",
             "domains={client-2: {path: mine.jsonl, instruction: Answer.}}",
             "server_side.evaluation.instruction=Answer."]
        )  # fmt: skip

    assert "Expected public stand-in records" in str(caught.value.code)
    assert commands == []
