"""What an exchange in processes comes to when one of them is killed in the middle of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from lm.settings import save_settings
from protocol.errors import ExchangeError
from server_side.exchange.outcome import clients_without_releases, read_outcome
from simulations import processes
from simulations.config import RuntimeConfig
from simulations.prepare import World
from tests.support.clients import RUN_ID, client_config, make_client, server_config
from tests.support.processes import child_with, is_training, ledger_entries

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Exchange:
    """Clients whose generators train long enough to be caught at it."""

    world: World
    said: list[str] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)

    def run(self, victim: Callable[[], psutil.Process]) -> None:
        """Run the exchange; kill the victim once, when the last client has made three steps."""

        def look() -> None:
            if not self.killed and is_training(self.world.clients[-1], until=60):
                process = victim()
                self.killed.append(process.pid)
                process.kill()

        processes.run_exchange(
            self.world,
            run_id=RUN_ID,
            runtime=RuntimeConfig(poll_seconds=0.1, deadline_seconds=200.0),
            on_poll=look,
            say=self.said.append,
        )

    def node(self) -> psutil.Process:
        return child_with("client_side.flower_node", str(self.world.clients[-1].path))

    def executor(self) -> psutil.Process:
        return child_with("flower-superexec", of=self.node())

    def link(self) -> psutil.Process:
        return child_with("flower-superlink", str(self.world.server_folder.parent))


@pytest.fixture
def exchange(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    clients = []
    for number in (1, 2):
        config = client_config(tiny_llama, name=f"client-{number}")
        config = replace(config, generator=replace(config.generator, steps=80))
        clients.append(make_client(tmp_path / config.name, config))
    (tmp_path / "server").mkdir()
    world = World(
        clients=tuple(clients),
        num_records=(0, 0),
        server_folder=tmp_path / "server",
        server=server_config(tiny_llama, min_clients=1),
        num_overlapping=0,
        num_evaluation=0,
    )
    save_settings(world.server, world.server_folder / "server_node.yaml")
    return Exchange(world)


def test_a_client_that_is_given_up_holds_nobody_up(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed is what starts its client processes: without it the node would live and do nothing."""
    monkeypatch.setattr(processes, "_NUM_RESTARTS", 0)

    exchange.run(exchange.executor)

    (lost,) = clients_without_releases(exchange.world.server_folder)
    assert lost.name == "client-2"
    one, other = exchange.world.clients
    assert ledger_entries(one) == {"reserve": 1, "start": 2, "release": 2}
    assert ledger_entries(other) == {"reserve": 1, "start": 1}


def test_the_death_of_the_link_ends_the_exchange_at_once(exchange: Exchange) -> None:
    exchange.world = replace(exchange.world, clients=exchange.world.clients[1:])

    with pytest.raises(ExchangeError, match=r"Expected superlink to run .* ended with code -9"):
        exchange.run(exchange.link)

    assert exchange.said == []
    assert read_outcome(exchange.world.server_folder) is None
