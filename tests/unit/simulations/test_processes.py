"""An exchange in processes: whose node ends is started again, or given up by name."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from client_side.folder import ClientFolder
from protocol.errors import ExchangeError
from protocol.ledger import ProxyKind
from server_side.children import Child
from server_side.config import ServerConfig
from server_side.exchange.outcome import (
    ClientOutcome,
    clients_without_releases,
    outcomes_of,
    read_outcome,
    write_outcome,
)
from simulations import processes
from simulations.config import RuntimeConfig
from simulations.prepare import World

WHOLE = {"hello": "admitted", "generator": "admitted", "reward": "admitted"}


class Tries:
    """The tries of one exchange of three clients: in each, the nodes of some clients end."""

    def __init__(self, folder: Path, *ends: Sequence[str], min_clients: int = 1) -> None:
        (folder / "server").mkdir()
        self.world = World(
            clients=tuple(ClientFolder(path=folder / f"client-{i}") for i in (1, 2, 3)),
            num_records=(0, 0, 0),
            server_folder=folder / "server",
            server=replace(ServerConfig(), min_clients=min_clients),
            num_overlapping=0,
            num_evaluation=0,
        )
        self.asked: list[list[str]] = []
        self.deadlines: list[float] = []
        self.said: list[str] = []
        self._ends = list(ends)

    def run_once(
        self,
        world: World,
        clients: Sequence[ClientFolder],
        *,
        runtime: RuntimeConfig,
        **others: object,
    ) -> None:
        self.asked.append([client.path.name for client in clients])
        self.deadlines.append(runtime.deadline_seconds)
        if self._ends:
            nodes = [
                Child(
                    name=name,
                    process=cast("subprocess.Popen[bytes]", SimpleNamespace(returncode=-9)),
                    log_file=Path(f"logs/{name}.log"),
                )
                for name in self._ends.pop(0)
            ]
            raise processes._NodesEndedError(nodes)
        outcomes = [ClientOutcome(name=name, answers=WHOLE) for name in self.asked[-1]]
        write_outcome(
            world.server_folder, run_id="r", error=None, outcomes=outcomes, flower_run="7"
        )

    def run(self) -> None:
        processes.run_exchange(
            self.world,
            run_id="r",
            runtime=RuntimeConfig(deadline_seconds=100.0),
            on_poll=lambda: None,
            say=self.said.append,
        )


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    made: list[float] = []
    monkeypatch.setattr(processes, "time", SimpleNamespace(sleep=made.append, monotonic=lambda: 0))
    return made


def begin(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *ends: Sequence[str], min_clients: int = 1
) -> Tries:
    tries = Tries(folder, *ends, min_clients=min_clients)
    monkeypatch.setattr(processes, "_run_once", tries.run_once)
    monkeypatch.setattr(processes, "load_collected", lambda *_, **__: ())
    return tries


def test_a_node_that_ended_is_started_again_after_a_pause_and_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    tries = begin(monkeypatch, tmp_path, ["client-2"], min_clients=3)

    tries.run()

    assert tries.asked == 2 * [["client-1", "client-2", "client-3"]]
    assert tries.said == [
        "The node of client-2 ended with code -9; starting it again (1 of 3). All clients go on "
        "from their last whole step."
    ]
    assert pauses == [3.0]


def test_a_node_that_ends_again_and_again_is_given_up_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = begin(monkeypatch, tmp_path, *4 * [["client-2"]], min_clients=2)

    tries.run()

    assert tries.asked[3:] == [["client-1", "client-2", "client-3"], ["client-1", "client-3"]]
    assert tries.said[-1].startswith(
        "The node of client-2 ended with code -9 after 3 restarts; the exchange goes on without it."
    )
    (lost,) = clients_without_releases(tries.world.server_folder)
    assert (lost.name, lost.told) == ("client-2", "node ended again and again")
    outcome = read_outcome(tries.world.server_folder)
    assert outcome is not None
    assert [client.name for client in outcomes_of(outcome)] == ["client-1", "client-3", "client-2"]


def test_what_a_client_that_is_given_up_gave_before_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = begin(monkeypatch, tmp_path, *4 * [["client-2"]])
    admitted = [
        SimpleNamespace(client_name="client-2", proxy=proxy, epsilon=7.5) for proxy in ProxyKind
    ]
    monkeypatch.setattr(processes, "load_collected", lambda *_, **__: admitted)

    tries.run()

    assert clients_without_releases(tries.world.server_folder) == ()


def test_ends_of_each_node_are_counted_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ["client-1", "client-2"]
    tries = begin(monkeypatch, tmp_path, both, both, ["client-1"], ["client-2"], min_clients=3)

    tries.run()

    assert len(tries.asked) == 5
    assert len(tries.said) == 6


def test_too_few_clients_left_are_an_error_that_names_the_node_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = begin(monkeypatch, tmp_path, *4 * [["client-2"]], min_clients=3)

    with pytest.raises(ExchangeError, match=r"min_clients.*found 2.*client-2 ended with code -9"):
        tries.run()

    assert len(tries.asked) == 4
    assert len(tries.said) == 3


def test_any_other_error_ends_the_exchange_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link's death, as well as too few clients that gave both proxies."""
    tries = begin(monkeypatch, tmp_path)

    def fail(*_: object, **__: object) -> None:
        tries.asked.append([])
        raise ExchangeError("Expected superlink to run, but it ended.")

    monkeypatch.setattr(processes, "_run_once", fail)

    with pytest.raises(ExchangeError, match="superlink"):
        tries.run()

    assert len(tries.asked) == 1


def test_all_tries_together_keep_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = begin(monkeypatch, tmp_path, ["client-2"])
    clock = iter([0.0, 0.0, 40.0])
    monkeypatch.setattr(
        processes, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(clock))
    )

    tries.run()

    assert tries.deadlines == [100.0, 60.0]
