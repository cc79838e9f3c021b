"""A sweep of which a point would be refused begins nothing, and one that was begun goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations import run
from simulations.config import SimulateConfig
from simulations.sweeps import callback
from simulations.sweeps.points import begin_sweep
from tests.support.calling import call, hide_package


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    return tmp_path


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[SimulateConfig]:
    """Take the place of the runs."""
    configs: list[SimulateConfig] = []
    monkeypatch.setattr(run, "simulate", lambda config, folder: configs.append(config))
    return configs


@pytest.mark.parametrize(
    ("words", "point", "said"),
    [
        (["sed=1,2"], "1 of 2 (experiment=smoke sed=1)", "got sed"),
        (
            ["num_clients=2,many", "seed=1,2"],
            "3 of 4 (experiment=smoke num_clients=many seed=1)",
            "num_clients: Value 'many'",
        ),
        (
            ["server_side.filtering.alpha=0.5,1.5"],
            "2 of 2 (experiment=smoke server_side.filtering.alpha=1.5)",
            "Expected filtering.alpha to be a fraction in [0, 1], got 1.5.",
        ),
        (
            ["seed=1,-1"],
            "2 of 2 (experiment=smoke seed=-1)",
            "Expected 0 <= seed < 2**31, got -1.",
        ),
        (
            ["arm=rewardds,dp_generate", "server_side.finetuning.objective=dpo"],
            "2 of 2 (experiment=smoke arm=dp_generate server_side.finetuning.objective=dpo)",
            "filtering.choose_by=first prefers no response",
        ),
        (
            ["num_clients=2,1", "server_side.min_clients=1,2"],
            "4 of 4 (experiment=smoke num_clients=1 server_side.min_clients=2)",
            "Expected server_side.min_clients <= num_clients, got 2 > 1.",
        ),
        (
            ["arm=rewardds,public_prompts"],
            "2 of 2 (experiment=smoke arm=public_prompts)",
            "Expected server_side.synthesis.public_prompts_path to name public text",
        ),
        (
            ["seed=1,2", "selection.candidates=['seed=3']"],
            "1 of 2 (experiment=smoke seed=1 selection.candidates=['seed=3'])",
            "Expected no selection.candidates in a sweep",
        ),
    ],
)
def test_a_sweep_with_a_wrong_point_among_others_begins_nothing_and_names_it(
    words: list[str],
    point: str,
    said: str,
    begun: list[SimulateConfig],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        call("-m", "experiment=smoke", *words, monkeypatch=monkeypatch)

    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith(f"Error: In point {point}: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert begun == []
    assert list(here.iterdir()) == []


def test_a_sweep_that_needs_a_missing_package_begins_nothing(
    begun: list[SimulateConfig],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hide_package("bitsandbytes", monkeypatch=monkeypatch)

    words = ("-m", "experiment=smoke", "server_side.finetuning.method=lora,qlora")

    with pytest.raises(SystemExit):
        call(*words, monkeypatch=monkeypatch)

    assert "In point 2 of 2" in (error := capsys.readouterr().err)
    assert "pip install -e '.[qlora]'" in error
    assert begun == []
    assert list(here.iterdir()) == []


def test_a_word_that_refers_to_another_setting_is_read_in_each_point(
    begun: list[SimulateConfig], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read once for the whole sweep, it would ask for two of one client."""
    words = (
        "num_clients=1,3",
        "server_side.min_clients=${num_clients}",
        "server_side.evaluation.path=${hydra:runtime.output_dir}/${hydra:job.num}.jsonl",
    )

    call("-m", "experiment=smoke", *words, "hydra.sweep.dir=s", monkeypatch=monkeypatch)

    found = [config.server_side for config in begun]
    assert [own.min_clients for own in found] == [1, 3]
    paths = [str(here / "s" / name / f"{name}.jsonl") for name in "01"]
    assert [own.evaluation.path for own in found] == paths

    call("resume=s", monkeypatch=monkeypatch)

    assert len(begun) == 2  # the same two points, which are done


def test_a_sweep_that_was_begun_goes_on_with_a_point_that_is_refused_today(
    begun: list[SimulateConfig],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An older version may have taken it; the other points have their results to make yet."""
    words = ["experiment=smoke", "server_side.filtering.alpha=1.5,0.5"]
    begin_sweep(here / "mine", overrides=words, num_points=2, command=["x"])

    with pytest.raises(SystemExit):
        call("resume=mine", monkeypatch=monkeypatch)

    assert [config.server_side.filtering.alpha for config in begun] == [0.5]
    assert "found 1 that are not: 0 (" in capsys.readouterr().err


def test_points_that_differ_in_their_seed_alone_are_composed_once_for_each_word(
    begun: list[SimulateConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third of a second each: a sweep of arms and seeds would else be silent for long."""
    checked: list[int] = []
    check = callback._check

    def count(composed: object, *, number: int) -> None:
        checked.append(number)
        check(composed, number=number)  # type: ignore[arg-type]

    monkeypatch.setattr(callback, "_check", count)
    words = ("arm=rewardds,dp_generate", "seed=1,2", "hydra.sweep.dir=s")

    call("-m", "experiment=smoke", *words, monkeypatch=monkeypatch)

    assert checked == [0, 1, 2]
    assert len(begun) == 4
