"""How far a run is, as `rewardds-server status` tells it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from server_side.exchange.outcome import ClientOutcome, write_outcome
from server_side.node import main


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def test_status_of_a_release_without_privacy_is_json_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["init", str(tmp_path / "server"), "--host", "server.test"])
    clients = (ClientOutcome(name="open", epsilon=math.inf), ClientOutcome(name="b", epsilon=2.0))
    write_outcome(tmp_path / "server", run_id="run", error=None, outcomes=clients)
    capsys.readouterr()

    main(["status", str(tmp_path / "server"), "--json"])

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [client["epsilon"] for client in found["outcome"]["clients"]] == [None, 2.0]
