"""A run's folder: begun once, refused where it holds what no run wrote, taken back by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.checks import check_name
from server_side.config import ServerConfig
from simulations import command_line, exchanging, run
from simulations.audit import run as audit_run
from simulations.command_line import alone_in
from simulations.config import SimulateConfig
from simulations.console import SimulationConsole
from simulations.prepare import World
from simulations.run_folder import run_id_of

MINE = "notes that nobody else has"
LAID_OUT = ("clients/client-1/records.jsonl", "server/evaluation.jsonl", "models/tiny/config.json")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("server_side.children.raise_on_signals", lambda: None)
    return tmp_path


def simulate(*words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("sys.argv", ["rewardds-simulate", "experiment=smoke", *words])
    run.main()


def audit(*words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("sys.argv", ["rewardds-audit", "audit=smoke", *words])
    audit_run.main()


ABSENT = "client_side.records.path=absent.jsonl"


@pytest.mark.parametrize("command", [simulate, audit])
@pytest.mark.parametrize("name", ["notes.txt", "clients/ward-7.json"])
def test_a_folder_with_anything_of_somebody_else_is_refused_and_keeps_it(
    command: Callable[..., None],
    name: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept = here / "project" / name
    kept.parent.mkdir(parents=True)
    kept.write_text(MINE, encoding="utf-8")

    with pytest.raises(SystemExit):
        command("run_folder=project", ABSENT, monkeypatch=monkeypatch)

    assert "Expected run_folder=project to be new or empty" in capsys.readouterr().err
    assert kept.read_text(encoding="utf-8") == MINE
    assert [item.name for item in (here / "project").iterdir()] == [name.partition("/")[0]]


@pytest.mark.parametrize("command", [simulate, audit])
@pytest.mark.parametrize("interrupt", [False, True])
def test_a_start_that_fails_takes_back_what_it_wrote_and_nothing_else(
    command: Callable[..., None], interrupt: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts a file there while the start is at work, and it fails or is interrupted."""

    def fail(*_: object, **__: object) -> None:
        folder = here / "project"
        for name in LAID_OUT if command is simulate else LAID_OUT[-1:]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / "notes.txt").write_text(MINE, encoding="utf-8")
        raise KeyboardInterrupt if interrupt else OSError("disk")

    monkeypatch.setattr("simulations.prepare.prepare_world", fail)
    monkeypatch.setattr("simulations.audit.auditing.run_audit", fail)
    (here / "project").mkdir()

    with pytest.raises(SystemExit):
        command("run_folder=project", monkeypatch=monkeypatch)

    assert {item.name for item in (here / "project").iterdir()} == {"notes.txt"}
    assert (here / "project" / "notes.txt").read_text(encoding="utf-8") == MINE


@pytest.mark.parametrize("command", [simulate, audit])
def test_an_empty_folder_outlives_a_start_that_fails(
    command: Callable[..., None], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine").mkdir()

    with pytest.raises(SystemExit):
        command("run_folder=mine", ABSENT, monkeypatch=monkeypatch)

    assert list((here / "mine").iterdir()) == []


def test_a_run_that_was_begun_earlier_is_kept_when_it_cannot_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as first:
        first.setattr(run, "simulate", lambda config, folder: None)
        simulate("run_folder=mine", ABSENT, monkeypatch=first)
    # The command sets it for Hydra; as a user's own it would ask for a traceback.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    with pytest.raises(SystemExit):
        simulate("run_folder=mine", ABSENT, monkeypatch=monkeypatch)

    assert (here / "mine" / "simulate.yaml").is_file()


def test_a_folder_in_which_another_command_went_on_is_left_to_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):  # noqa: PT012 - the other command begins in the middle

        def overtaken(config: SimulateConfig, folder: Path) -> None:
            holds = alone_in(folder)
            holds.__enter__()
            (folder / "clients").mkdir()
            with alone_in(folder):
                pass

        monkeypatch.setattr(run, "simulate", overtaken)
        simulate("run_folder=mine", monkeypatch=monkeypatch)

    assert (here / "mine" / "clients").is_dir()
    assert (here / "mine" / "simulate.yaml").is_file()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("2026-01-31_10-00-00", "2026-01-31_10-00-00"),
        ("a b", "a-b"),
        ("Zürich", "Z-rich"),
        (".hidden run", "hidden-run"),
        ("-_.", "run"),
        ("日本", "run"),
        ("x" * 100, "x" * 64),
        ("é" + "x" * 100, "x" * 64),
    ],
)
def test_every_folder_gives_a_name_that_releases_can_be_bound_to(
    folder: str, expected: str
) -> None:
    run_id = run_id_of(Path("runs") / folder)

    assert run_id == expected
    check_name(run_id=run_id)


def test_an_exchange_in_a_folder_of_any_name_is_asked_for_under_a_legal_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        exchanging, "_make_exchange", lambda config, world, **others: asked.append(others["run_id"])
    )
    world = World(
        clients=(), num_records=(), server_folder=tmp_path, server=ServerConfig(),
        num_overlapping=0, num_evaluation=0,
    )  # fmt: skip

    exchanging.make_or_take_exchange(
        SimulateConfig(),
        world,
        run_folder=tmp_path / "a b",
        shared=None,
        console=SimulationConsole(is_silent=True),
    )

    assert asked == ["a-b"]
