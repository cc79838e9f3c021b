"""How far a run is, as `rewardds-server status` tells it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lm.locks import held
from protocol.ledger import ProxyKind
from server_side.exchange.folder import ServerFolder
from server_side.exchange.outcome import ClientOutcome, write_outcome
from server_side.exchange.standing import describe, standing
from server_side.exchange.starts import note_start_progress
from server_side.node import main


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    main(["init", str(tmp_path / "server"), "--host", "server.test"])
    return ServerFolder(path=tmp_path / "server")


def test_status_of_a_new_folder(folder: ServerFolder, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", str(folder.path)])

    printed = capsys.readouterr().out
    assert "server.test:9443" in printed
    assert "none allowed yet" in printed
    assert "not run yet" in printed


def test_status_says_how_far_the_tuning_of_starting_weights_is(folder: ServerFolder) -> None:
    note_start_progress(folder.path, ProxyKind.GENERATOR, "training", 20, 50)

    with held(folder.collecting_file, busy=AssertionError()):
        told = describe(standing(folder))

    assert "under way; starting weights of the generator proxy, training 20/50" in told
    assert standing(folder)["starting_weights"] is None


def test_status_says_whether_an_exchange_is_under_way(folder: ServerFolder) -> None:
    with held(folder.collecting_file, busy=AssertionError()):
        under_way = standing(folder)["is_collecting"]

    assert (under_way, standing(folder)["is_collecting"]) == (True, False)


def test_status_of_a_release_without_privacy_is_json_all_the_same(
    folder: ServerFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = (ClientOutcome(name="open", epsilon=math.inf), ClientOutcome(name="b", epsilon=2.0))
    write_outcome(folder.path, run_id="run", error=None, outcomes=clients)
    capsys.readouterr()

    main(["status", str(folder.path), "--json"])

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [client["epsilon"] for client in found["outcome"]["clients"]] == [None, 2.0]
