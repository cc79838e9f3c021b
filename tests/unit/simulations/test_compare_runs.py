"""Which runs are compared under which names, and the way out where names do not tell them apart."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from protocol.errors import ConfigurationError
from simulations.compare import main
from simulations.compare_runs import NamedFolder, find_runs, named_folder, read_run
from tests.support.arms import run_of
from tests.support.compared_runs import write_run

VALUES = [0.11, 0.25, 0.31, 0.18]
FEW = ["--resamples", "50", "--permutations", "99"]
OBJECTIVE = "server_side.finetuning.objective"


@pytest.fixture
def objectives(tmp_path: Path) -> Path:
    """Make a sweep over objectives and seeds, all of one arm."""
    for seed in (1, 2):
        for shift, objective in enumerate(("sft", "orpo")):
            run = run_of("with_consensus", [v + shift / 10 for v in VALUES], seed=seed)
            overrides = [f"{OBJECTIVE}={objective}", f"seed={seed}"]
            write_run(tmp_path / "sweep" / f"{shift}{seed}", run, overrides=overrides)
    return tmp_path / "sweep"


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = run_of("dp_generate", VALUES, seed=3)

    assert read_run(write_run(tmp_path / "0", run)) == run


def test_a_run_that_is_named_twice_counts_once(objectives: Path) -> None:
    found, num_unfinished = find_runs(
        [NamedFolder(folder=objectives), NamedFolder(folder=objectives / "01")]
    )

    assert len(found) == 4
    assert num_unfinished == 0


def test_a_label_is_the_arm_of_all_runs_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sft", "dpo"):
        for seed in (1, 2):
            write_run(tmp_path / name / str(seed), run_of("with_consensus", VALUES, seed=seed))

    main([f"first={tmp_path / 'sft'}", f"second={tmp_path / 'dpo'}", "--reference=first", *FEW])

    shown = capsys.readouterr().out
    assert "second" in shown
    assert "with_consensus" not in shown
    assert "Seeds 1, 2; 8 rows" in shown


def test_runs_of_other_seeds_may_have_one_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [write_run(tmp_path / str(seed), run_of("a", VALUES, seed=seed)) for seed in (1, 2)]

    main([*(f"same={folder}" for folder in folders), "--reference=same", *FEW])

    assert "Seeds 1, 2" in capsys.readouterr().out


def test_a_run_keeps_the_label_that_it_has_beside_its_sweep(objectives: Path) -> None:
    labelled = NamedFolder(folder=objectives / "01", label="mine")

    for named in (
        [NamedFolder(folder=objectives), labelled],
        [labelled, NamedFolder(folder=objectives)],
    ):
        found, _ = find_runs(named)
        assert found[(objectives / "01").resolve()] == "mine"
        assert sorted(label or "" for label in found.values()) == ["", "", "", "mine"]


def test_a_run_with_two_labels_is_refused(objectives: Path) -> None:
    named = [NamedFolder(folder=objectives, label=label) for label in ("a", "b")]

    with pytest.raises(ConfigurationError, match="one label for each run, found a and b"):
        find_runs(named)


def test_a_path_with_an_equals_sign_that_exists_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where both readings make sense."""
    monkeypatch.chdir(tmp_path)
    for name in ("lr=small", "small"):
        (tmp_path / name).mkdir()

    assert named_folder("lr=small") == NamedFolder(folder=Path("lr=small"))
    assert named_folder(f"{tmp_path}/lr=small").folder == tmp_path / "lr=small"
    assert named_folder("sft=lr=small") == NamedFolder(folder=Path("lr=small"), label="sft")


@pytest.mark.parametrize("word", ["SFT=a", "a b=c", "=a", "sft=", "untuned=a", f"{'x' * 41}=a"])
def test_a_bad_label_is_refused_with_what_one_may_be(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"1 to 40 small letters, digits and _"):
        named_folder(word)


def test_two_runs_of_one_arm_and_seed_name_the_command_that_tells_them_apart(
    objectives: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(objectives.parent)
    with pytest.raises(SystemExit, match="two of arm=with_consensus with seed=1") as caught:
        main(["sweep", *FEW])

    said = str(caught.value)
    assert "LABEL=FOLDER" in said
    assert f"differ in {OBJECTIVE}: " in said
    program, *words = shlex.split(said.rpartition(": ")[2])
    assert program == "rewardds-compare"
    main([*words, *FEW])
    shown = capsys.readouterr().out
    assert "orpo" in shown
    assert "2/2" in shown


def test_a_value_that_is_no_word_gets_its_settings_name(tmp_path: Path) -> None:
    for i, alpha in enumerate(("0.5", "1")):
        overrides = [f"server_side.filtering.alpha={alpha}", "seed=1"]
        write_run(tmp_path / str(i), run_of("rewardds", VALUES), overrides=overrides)

    with pytest.raises(SystemExit, match=r"alpha_0_5=\S+/0 alpha_1=\S+/1 --reference alpha_0_5$"):
        main([str(tmp_path)])


@pytest.mark.parametrize(
    "overrides",
    [
        (["a.b=x", "c.d=x"], ["a.b=y", "c.d=y"]),
        (["a.b=X"], ["a.b=x"]),
        (["a.b=x"], ["a.b=x"]),
        (["a.b=x"], None),
    ],
)
def test_no_command_is_named_where_one_setting_does_not_tell_the_runs_apart(
    tmp_path: Path, overrides: tuple[list[str] | None, ...]
) -> None:
    for i, own in enumerate(overrides):
        write_run(tmp_path / str(i), run_of("rewardds", VALUES), overrides=own)

    with pytest.raises(SystemExit, match=r"arm of all runs in FOLDER\.$"):
        main([str(tmp_path)])
