"""`rewardds-simulate`: one clear line for each mistake, and a folder for each run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from server_side.notes import SelectionPrice
from simulations import run
from simulations.config import SimulateConfig
from simulations.prepare import WORLD_FILE
from tests.support.calling import call, hide_package
from tests.support.sweeping import write_point


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["foo=1"], "foo"),
        (["client_side.records.pth=x"], "client_side.records.pth"),
        (["+client_side.records.pth=x"], "client_side.records.pth"),
        (["experiment=nope"], "smoke"),
        (["client_side/budget=eps_3"], "eps_4"),
        (["client_side.generator.steps=many"], "many"),
        (["client_side.budget.target_epsilon=0"], "target_epsilon"),
        (["client_side.budget.lifetime_epsilon_cap=2"], "lifetime_epsilon_cap"),
        (["client_side.records.privacy_unit=person"], "record, group"),
        (["resume=runs/absent"], "runs/absent"),
        (["resume=runs/latest", "seed=2"], "seed=2"),
        (["experiment=smoke", "client_side.records.path=absent.jsonl"], "absent.jsonl"),
        (["experiment=smoke", "server_side.evaluation.path=absent.csv"], "absent.csv"),
        (["arm=private_no_dp", "server_side.finetuning.objective=dpo"], "objective=sft"),
        (["experiment=smoke", "client_side.base_model=absent"], "absent"),
        (["experiment=smoke", "num_records=10000000"], "records"),
        (["num_clients=1000000000"], "num_clients"),
        (["server_side.synthesis.num_queries=1000000000000"], "num_queries"),
        (["server_side.evaluation.num_resamples=1000000000"], "num_resamples"),
        (["server_side.num_threads=1000000000"], "server_side.num_threads"),
        (["experiment=smoke", "run_folder=a_file"], "Expected to be able to use a_file"),
        (["foo bar"], "foo bar"),
    ],
)
def test_a_mistake_is_one_line_without_traceback_and_leaves_no_run(
    arguments: list[str],
    named: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "a_file").touch()
    with pytest.raises(SystemExit) as caught:
        call(*arguments, monkeypatch=monkeypatch)

    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert error.startswith("Error: ")
    assert named in error
    assert len(error.splitlines()) == 1
    assert not list((here / "runs").glob("*"))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("server_side.finetuning.method=qlora", "pip install -e '.[qlora]'"),
        ("arm=public_prompts", "server_side.synthesis.public_prompts_path to name public text"),
    ],
)
def test_what_is_missing_is_said_before_a_run_folder_is_named(
    word: str,
    said: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hide_package("bitsandbytes", monkeypatch=monkeypatch)

    with pytest.raises(SystemExit):
        call("experiment=smoke", word, monkeypatch=monkeypatch)

    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""
    assert list(here.iterdir()) == []


def test_a_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARDDS_TRACEBACK", "1")

    with pytest.raises(Exception, match="foo"):
        call("foo=1", monkeypatch=monkeypatch)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SimulateConfig, Path]]:
    calls: list[tuple[SimulateConfig, Path]] = []
    monkeypatch.setattr(run, "simulate", lambda config, folder: calls.append((config, folder)))
    return calls


def test_two_runs_in_one_second_get_folders_of_their_own(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        call("experiment=smoke", monkeypatch=monkeypatch)

    assert len({folder for _, folder in started}) == 3


def test_a_run_keeps_settings_command_and_versions(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call("experiment=smoke", "seed=7", "run_folder=mine", monkeypatch=monkeypatch)

    provenance = json.loads(Path("mine/provenance.json").read_text(encoding="utf-8"))
    assert provenance["command"][1:] == ["experiment=smoke", "seed=7", "run_folder=mine"]
    assert "torch" in provenance["libraries"]
    assert "seed: 7" in Path("mine/simulate.yaml").read_text(encoding="utf-8")


def test_every_start_of_a_run_is_kept_with_its_command_and_versions(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call("experiment=smoke", "run_folder=mine", monkeypatch=monkeypatch)
    monkeypatch.setattr("server_side.provenance.sources_digest", lambda: "others")

    call("resume=mine", monkeypatch=monkeypatch)

    provenance = json.loads(Path("mine/provenance.json").read_text(encoding="utf-8"))
    assert provenance["command"][1:] == ["experiment=smoke", "run_folder=mine"]
    assert provenance["sources_digest"] != "others"
    [resumed] = provenance["resumed"]
    assert resumed["command"][1:] == ["resume=mine"]
    assert resumed["sources_digest"] == "others"


def test_resume_takes_the_settings_of_the_run(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call("experiment=smoke", "seed=7", "run_folder=mine", monkeypatch=monkeypatch)

    call("resume=mine", monkeypatch=monkeypatch)

    assert started[1][0] == started[0][0]
    assert started[1][1].resolve() == started[0][1].resolve()


def test_a_run_that_was_begun_goes_on_with_settings_that_begin_none_any_more(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients have paid, and the settings of a run folder never change."""
    call("experiment=smoke", "run_folder=mine", monkeypatch=monkeypatch)
    settings = Path("mine/simulate.yaml")
    text = settings.read_text(encoding="utf-8")
    old = text.replace("client_weights: null", "client_weights: {client-1: 1.0}")
    settings.write_text(old, encoding="utf-8")
    with pytest.raises(SystemExit):
        call("resume=mine", monkeypatch=monkeypatch)

    Path("mine", WORLD_FILE).write_text("{}", encoding="utf-8")
    call("resume=mine", monkeypatch=monkeypatch)

    assert [config.server_side.synthesis.client_weights for config, _ in started] == [
        None,
        {"client-1": 1.0},
    ]


def test_the_same_folder_with_the_same_settings_goes_on(
    started: list[tuple[SimulateConfig, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        call("experiment=smoke", "run_folder=mine", monkeypatch=monkeypatch)

    assert len(started) == 2


def test_the_same_folder_with_other_settings_is_an_error(
    started: list[tuple[SimulateConfig, Path]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call("experiment=smoke", "run_folder=mine", monkeypatch=monkeypatch)

    with pytest.raises(SystemExit):
        call("experiment=smoke", "seed=9", "run_folder=mine", monkeypatch=monkeypatch)

    assert "resume=mine" in capsys.readouterr().err


@pytest.mark.parametrize("price", [None, SelectionPrice(epsilon=4.0, delta=1e-5)])
def test_a_run_that_stands_to_be_selected_shares_nothing_and_is_laid_out_as_one(
    price: SelectionPrice | None, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its noise is its own, and no record chooses its test rows; an ordinary run may share."""
    write_point(here / "mine", budget="eps_8", seed=1)
    world = SimpleNamespace(clients=(), num_records=(9,), num_evaluation=9, num_overlapping=0)
    prepare, both = Mock(return_value=world), Mock()
    monkeypatch.setattr("simulations.prepare.prepare_world", prepare)
    monkeypatch.setattr(run, "_run_both_parties", both)

    run.simulate(SimulateConfig(shared_folder="shared"), here / "mine", selection=price)

    handed = both.call_args.kwargs
    assert prepare.call_args.kwargs == {"is_selected_from": price is not None}
    assert handed["selection"] is price
    assert handed["shared"] == (None if price else here / "shared")
    assert (handed["stages"] is None) == (price is not None)
