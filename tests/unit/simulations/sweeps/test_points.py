"""Points of a sweep: each fails alone, is done once, and goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from protocol.errors import ConfigurationError, StageError
from simulations import command_line, run
from simulations.config import SimulateConfig
from simulations.run import sweep_resumed
from simulations.sweeps.points import (
    PointStatus,
    SweepFailedError,
    begin_sweep,
    point_folders,
    read_point,
    read_sweep,
    require_all_done,
    run_point,
    seconds_left,
)
from tests.support.calling import call


def do(folder: Path, work: Callable[[], None]) -> str | None:
    return run_point(folder, ["seed=1"], work, describe_error=str)


def fail() -> None:
    raise StageError("Expected more. Do it.")


def test_a_failed_point_is_noted_with_its_reason_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "0"

    assert do(folder, fail) == "Expected more. Do it."
    failed = read_point(folder)
    assert do(folder, lambda: None) is None

    assert failed is not None
    assert (failed.status, failed.error) == (PointStatus.FAILED, "Expected more. Do it.")
    again = read_point(folder)
    assert again is not None
    assert (again.status, again.error) == (PointStatus.DONE, None)
    assert not (folder / "error.log").exists()


def test_a_point_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    times: list[int] = []

    for _ in range(2):
        do(tmp_path / "0", lambda: times.append(1))

    assert times == [1]


def test_a_point_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib\n"
        "from simulations.sweeps.points import run_point\n"
        f"run_point(pathlib.Path({str(tmp_path / '0')!r}), ['seed=1'], "
        "lambda: os.kill(os.getpid(), signal.SIGKILL), describe_error=str)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(run.__file__).parents[1])
    killed = read_point(tmp_path / "0")
    times: list[int] = []

    do(tmp_path / "0", lambda: times.append(1))

    assert killed is not None
    assert killed.status is PointStatus.RUNNING
    assert times == [1]


def test_two_processes_never_work_on_one_point(tmp_path: Path) -> None:
    def second() -> None:
        with pytest.raises(ConfigurationError, match="another process"):
            do(tmp_path / "0", fail)

    do(tmp_path / "0", second)

    point = read_point(tmp_path / "0")
    assert point is not None
    assert point.status is PointStatus.DONE  # the one that came second has not touched it


def test_points_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "0"):
        do(tmp_path / name, lambda: None)

    assert [folder.name for folder in point_folders(tmp_path)] == ["0", "9", "10"]


def test_time_left_follows_from_the_points_of_the_newest_start(tmp_path: Path) -> None:
    begin_sweep(tmp_path, overrides=["a=1,2,3"], num_points=4, command=["x"])
    do(tmp_path / "0", lambda: None)
    time.sleep(0.01)
    begin_sweep(tmp_path, overrides=["a=1,2,3"], num_points=4, command=["x"])

    before = seconds_left(tmp_path)
    do(tmp_path / "1", lambda: time.sleep(0.05))
    after = seconds_left(tmp_path)

    assert before is None
    assert after is not None
    assert after >= 2 * 0.05  # two of four are left


def test_time_left_counts_again_what_failed_before_this_start(tmp_path: Path) -> None:
    begin_sweep(tmp_path, overrides=["a=1,2,3,4"], num_points=4, command=["x"])
    for name in "01":
        do(tmp_path / name, fail)
    do(tmp_path / "2", lambda: None)
    time.sleep(0.01)
    begin_sweep(tmp_path, overrides=["a=1,2,3,4"], num_points=4, command=["x"])

    do(tmp_path / "0", lambda: time.sleep(0.05))
    left = seconds_left(tmp_path)

    assert left is not None
    assert left >= 2 * 0.05  # the other that failed, and the one that nobody has begun


def test_time_left_counts_those_that_are_at_work_beside(tmp_path: Path) -> None:
    begin_sweep(tmp_path, overrides=["a=1,2,3,4"], num_points=4, command=["x"])
    do(tmp_path / "0", lambda: time.sleep(0.5))
    found: list[float | None] = []

    found.append(seconds_left(tmp_path))
    do(tmp_path / "1", lambda: found.append(seconds_left(tmp_path)))

    alone, beside = found
    assert alone is not None
    assert beside is not None
    assert alone >= 3 * 0.5
    assert 0 < beside <= alone / 2  # two are at work at the three


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    return tmp_path


SWEEP = ("-m", "experiment=smoke", "client_side/budget=eps_1,infinite", "seed=1,2")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[SimulateConfig]:
    """Take the place of the runs; those with seed 2 fail while `trouble` is there."""
    configs: list[SimulateConfig] = []

    def simulate(config: SimulateConfig, folder: Path) -> None:
        configs.append(config)
        if config.seed == 2 and Path("trouble").exists():
            fail()

    monkeypatch.setattr(run, "simulate", simulate)
    return configs


def test_a_sweep_goes_on_after_a_failed_point_and_ends_with_an_error_that_names_it(
    begun: list[SimulateConfig],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "trouble").touch()

    with pytest.raises(SystemExit) as caught:
        call(*SWEEP, "hydra.sweep.dir=runs/mine", monkeypatch=monkeypatch)

    output = capsys.readouterr()
    last = output.err.strip().splitlines()[-1]
    assert caught.value.code == 1
    assert [config.seed for config in begun] == [1, 2, 1, 2]
    assert "found 2 that are not" in last
    assert "client_side/budget=eps_1 seed=2): Expected more." in last
    assert "resume=runs/mine" in last
    assert "Point 4 of 4" in output.out
    assert Path("runs/latest").resolve() == Path("runs/mine").resolve()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.sweep.dir=project", "Expected hydra.sweep.dir=project to be new or empty"),
        ("hydra.sweep.dir=project/notes.txt", "found project/notes.txt. Name another"),
        ("run_folder=x", "got run_folder=x. Name the sweep's folder: hydra.sweep.dir=x"),
        ("run_folder=x,y", "got run_folder=x,y. Name the sweep's folder"),
    ],
)
def test_a_folder_that_is_no_place_for_a_sweep_is_refused_and_left_as_it_is(
    word: str,
    said: str,
    begun: list[SimulateConfig],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "project").mkdir()
    (here / "project" / "notes.txt").touch()

    with pytest.raises(SystemExit) as caught:
        call(*SWEEP, word, monkeypatch=monkeypatch)

    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert said in error
    assert len(error.splitlines()) == 1
    assert begun == []
    assert [file.name for file in here.rglob("*")] == ["project", "notes.txt"]


def test_resume_does_what_is_left_of_a_sweep_and_nothing_twice(
    begun: list[SimulateConfig], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "trouble").touch()
    with pytest.raises(SystemExit):
        call(*SWEEP, "hydra.sweep.dir=runs/mine", monkeypatch=monkeypatch)
    (here / "trouble").unlink()
    begun.clear()

    call("resume=runs/latest", monkeypatch=monkeypatch)

    assert [(c.seed, c.client_side.budget.unsafe_non_private) for c in begun] == [
        (2, False),
        (2, True),
    ]
    require_all_done(Path("runs/mine"))
    sweep = read_sweep(Path("runs/mine"))
    assert sweep is not None
    assert sweep.num_points == 4
    assert len(sweep.commands) == 2


def test_a_ready_made_sweep_is_a_sweep_without_a_flag(
    begun: list[SimulateConfig], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(
        "sweep=clients", "experiment=smoke", "seed=5", "hydra.sweep.dir=s", monkeypatch=monkeypatch
    )

    assert [config.num_clients for config in begun] == [1, 2, 4, 8]
    assert {config.seed for config in begun} == {5}
    command = json.loads(Path("s/0/provenance.json").read_text("utf-8"))["command"]
    assert command[-1] == "hydra.mode=RUN"  # what this point takes alone is no sweep

    begun.clear()
    call(*command[1:], "run_folder=alone", monkeypatch=monkeypatch)

    assert [config.num_clients for config in begun] == [1]


@pytest.mark.parametrize("seeds", ["1,2,3", "3,4"])
def test_another_sweep_in_the_same_folder_is_refused_and_leaves_the_first_one(
    seeds: str,
    begun: list[SimulateConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Points are numbered: with one seed more, point 2 would be taken for the old point 2."""
    call(*SWEEP, "hydra.sweep.dir=mine", monkeypatch=monkeypatch)
    before = Path("mine/sweep.json").read_bytes()
    begun.clear()

    with pytest.raises(SystemExit):
        call(*SWEEP[:-1], f"seed={seeds}", "hydra.sweep.dir=mine", monkeypatch=monkeypatch)

    assert begun == []
    assert "name another hydra.sweep.dir" in capsys.readouterr().err
    assert Path("mine/sweep.json").read_bytes() == before


def test_the_same_sweep_goes_on_with_another_launcher(here: Path) -> None:
    words = ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    begin_sweep(here / "mine", overrides=words[:1], num_points=2, command=["x"])

    begin_sweep(here / "mine", overrides=words, num_points=2, command=["x"])

    sweep = read_sweep(here / "mine")
    assert sweep is not None
    assert sweep.overrides == ("seed=1,2",)


@pytest.mark.parametrize("work", [lambda: None, fail])
def test_a_point_with_other_settings_is_never_taken_for_done_or_tried_again(
    tmp_path: Path, work: Callable[[], None]
) -> None:
    do(tmp_path / "0", work)
    before = read_point(tmp_path / "0")

    with pytest.raises(ConfigurationError, match=r"0 to be that of seed=2, found .* seed=1"):
        run_point(tmp_path / "0", ["seed=2"], lambda: None, describe_error=str)

    assert read_point(tmp_path / "0") == before


def test_resume_of_a_single_run_is_left_to_the_run(tmp_path: Path) -> None:
    assert sweep_resumed(["resume=runs/one"]) == ["resume=runs/one"]
    assert sweep_resumed(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]


@pytest.mark.parametrize(
    ("anew", "launching"),
    [
        ([], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]),
        (["hydra.launcher.n_jobs=1"], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]),
        (["hydra/launcher=basic"], ["hydra/launcher=basic"]),
    ],
)
def test_a_sweep_goes_on_with_as_many_points_at_a_time_as_are_named_anew(
    anew: list[str], launching: list[str], tmp_path: Path
) -> None:
    words = ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]
    begin_sweep(tmp_path, overrides=words, num_points=2, command=["x"])

    found = sweep_resumed([f"resume={tmp_path}", *anew])

    assert found == ["--multirun", "seed=1,2", *launching, f"hydra.sweep.dir={tmp_path}"]


def test_a_sweep_does_not_go_on_with_other_points(tmp_path: Path) -> None:
    begin_sweep(tmp_path, overrides=["seed=1,2"], num_points=2, command=["x"])

    assert sweep_resumed([f"resume={tmp_path}", "seed=3"]) == [f"resume={tmp_path}", "seed=3"]


def test_a_process_that_the_system_ended_is_said_with_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_out_of_memory() -> None:
        raise BrokenProcessPool("The exit codes of the workers are {SIGKILL(-9)}")

    with pytest.raises(SystemExit):
        command_line.run_command_line(run_out_of_memory, command="simulate", on_interrupt="")

    said = capsys.readouterr().err
    assert "memory ran out" in said
    assert "resume=runs/latest hydra.launcher.n_jobs=1" in said


def test_what_is_not_done_is_an_error_also_where_it_was_cut_off(tmp_path: Path) -> None:
    do(tmp_path / "0", lambda: None)
    (tmp_path / "1").mkdir()
    running = {
        "overrides": ["seed=2"],
        "status": "running",
        "error": None,
        "ended": None,
        "seconds": 0,
    }
    (tmp_path / "1" / "point.json").write_text(json.dumps(running), encoding="utf-8")

    with pytest.raises(SweepFailedError, match=r"1 \(seed=2\): cut off"):
        require_all_done(tmp_path)
