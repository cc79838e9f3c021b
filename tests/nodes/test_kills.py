"""`kill -9` of each process in each phase: the run ends well, and nobody pays twice.

`CELLS` is the table of what is killed and when. Several processes are killed in one exchange, each
while its phase is certainly on; the exchange can come to its end only if each of them came back.
The ledgers are compared with what they were at each kill: one reservation for each client in all,
each training begun once and released once, whatever was interrupted.

Flower's own time-outs of a minute decide how long this takes, not work; the tests can run side by
side where there are cores for it (`pytest -n 4 tests/nodes`).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import pytest

from client_side.budget import BudgetLedger
from client_side.reservations import Reservation
from lm.settings import save_settings
from protocol.ledger import ProxyKind
from server_side.exchange.outcome import read_outcome
from server_side.measuring.metrics import read_metrics
from tests.support.deployment import Deployment, deployment, quick_server_config, releases
from tests.support.machines import World, read_json, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]

STEPS: Final = 150

SERVERS: Final = {
    "link": ("flower-superlink",),
    "executor": ("flower-superexec", "--superexec-auth-secret-file"),
    "gateway": ("server_side.exchange.gateway",),
    "exchange": ("flwr-serverapp", "--token"),
}
"""The server's processes below `rewardds-server`, by parts of their command lines."""

CLIENT_PROCESS: Final = ("pinning.py",)

CLIENTS: Final = {
    "node": ("client_side.flower_node",),
    "client process": CLIENT_PROCESS,
}
"""A client's processes below `rewardds-client`."""

TOGETHER: Final = {
    "everything that is started again": ("client process", "link", "executor", "gateway", "node"),
    "what ends Flower's run": ("exchange", "rewardds-client"),
    "the server as a whole": ("rewardds-server",),
}
"""What is killed in one exchange; client a loses its client process, client b the rest."""

PHASES: Final = (("hello", "sending"), ("generator", "reward"))
"""The phases of one exchange in which all that happens, one after the other."""

NOT_THERE: Final = {
    (name, "afterwards") for name in ("link", "executor", "gateway", "exchange", "client process")
}
"""They end with the exchange, and the last test sees that they do."""

CELLS: Final = {
    *((name, phase) for names in TOGETHER.values() for name in names for phase in sum(PHASES, ())),
    *((name, "afterwards") for name in ("rewardds-server", "rewardds-client", "node")),
}


@dataclass(kw_only=True)
class Scene:
    """An exchange under way, and what was reserved when something was killed."""

    made: Deployment
    collecting: subprocess.Popen[bytes]
    supervisors: dict[str, subprocess.Popen[bytes]]
    reserved: dict[str, list[str]] = field(default_factory=dict)
    gateway: psutil.Process | None = None
    handing_over: list[psutil.Process] = field(default_factory=list)

    def wait_for(self, phase: str) -> None:
        """Wait until a phase is on at both clients."""
        made = self.made
        if phase == "sending":
            # A server that stands still while both train: their replies are held up.
            wait_until(
                lambda: any(made.is_training(name, "generator") for name in ("a", "b")),
                what="the training before the replies",
                every=0.02,
            )
            (self.gateway,) = made.processes(made.server.path, *SERVERS["gateway"])
            self.gateway.suspend()
            self.handing_over = made.processes(made.clients["a"].path, *CLIENT_PROCESS)
        wait_until(lambda: self.is_in(phase), what=f"the phase {phase}", every=0.02)

    def is_in(self, phase: str) -> bool:
        """Tell whether a phase is on."""
        made = self.made
        match phase:
            case "hello":
                is_asked = made.exchange_log().rstrip().endswith("who they are.")
                return is_asked and bool(made.processes(made.clients["a"].path, *CLIENT_PROCESS))
            case "sending":
                # Client a has its release in the store and hands it over to its node.
                phase_of_a = read_json(made.clients["a"].status_file).get("phase")
                return phase_of_a == "released"
        return all(made.is_training(name, phase) for name in ("a", "b"))

    def kill(self, name: str, phase: str) -> None:
        """Kill one process, which must be there."""
        made = self.made
        if phase == "sending" and name != "client process":
            wait_until(lambda: "Sending: train.generator" in made.log("b"), what="b's reply")
            assert "Sent successfully" not in made.log("b").rpartition("Sending: train.")[2]
        if name == "rewardds-server":
            victims = [psutil.Process(self.collecting.pid)]
        elif name == "rewardds-client":
            victims = [psutil.Process(self.supervisors["b"].pid)]
        elif name in SERVERS:
            victims = made.processes(made.server.path, *SERVERS[name])
        elif name == "node":
            victims = made.processes(made.clients["b"].path, *CLIENTS[name])
        elif phase == "sending":
            victims = self.handing_over
        else:
            victims = made.processes(made.clients["a"].path, *CLIENT_PROCESS)
        assert victims, f"no {name} to kill"
        for victim in victims:
            victim.kill()
        # Of what this test started itself it must know the end, to start it again.
        for own in (self.collecting, self.supervisors["b"]):
            if own.pid in {victim.pid for victim in victims}:
                own.wait(30)

    def go_on(self) -> None:
        """Let the server move again, if it stood still and lives."""
        if self.gateway is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.gateway.resume()

    def look(self) -> None:
        """Compare the ledgers with what they were when something was killed before."""
        for name in ("a", "b"):
            reserved = [item.reservation_id for item in reservations(self.made, name)]
            assert len(reserved) <= 1, "paid twice"
            assert not self.reserved.get(name) or self.reserved[name] == reserved
            self.reserved[name] = reserved


def test_the_table_is_whole() -> None:
    processes = {*SERVERS, *CLIENTS, "rewardds-server", "rewardds-client"}
    phases = {*sum(PHASES, ()), "afterwards"}

    assert {(name, phase) for name in processes for phase in phases} == CELLS | NOT_THERE
    assert not CELLS & NOT_THERE


@pytest.mark.parametrize("phases", PHASES, ids=" and ".join)
@pytest.mark.parametrize("together", TOGETHER)
def test_an_exchange_outlives_the_death_of(
    world: World, base: Path, tmp_path: Path, together: str, phases: tuple[str, ...]
) -> None:
    with deployment(world, tmp_path, base, steps=STEPS) as made:
        scene = Scene(
            made=made,
            collecting=made.start_collecting(),
            supervisors={name: made.start_client(name) for name in ("a", "b")},
        )
        stored: dict[str, bytes] = {}
        for phase in phases:
            scene.wait_for(phase)
            for name in TOGETHER[together]:
                scene.kill(name, phase)
            scene.look()
            scene.go_on()
            stored |= releases(made.server.path / "releases")
            start_again(scene)

        assert scene.collecting.wait(600) == 0, made.log("server") + made.exchange_log()

        outcome = read_outcome(made.server.path)
        assert outcome is not None
        assert outcome["error"] is None
        scene.look()
        after = releases(made.server.path / "releases")
        assert len(after) == 4
        # What was admitted before is still there, byte for byte.
        assert stored.items() <= after.items()
        for name in ("a", "b"):
            check_ledger(made, name)


def test_what_comes_after_the_exchange_can_be_killed_as_well(
    world: World, base: Path, tmp_path: Path
) -> None:
    """The server's job goes on where it was; a client has nothing left to lose."""
    with deployment(world, tmp_path, base) as made:
        server = made.server.path
        records = made.clients["a"].path / "records.jsonl"
        save_settings(quick_server_config(base, records, min_clients=2), made.server.settings_file)
        scene = Scene(
            made=made,
            collecting=made.start_collecting("run"),
            supervisors={name: made.start_client(name) for name in ("a", "b")},
        )
        wait_until(lambda: "The exchange is over" in made.log("server"), what="the server's job")
        wait_until(lambda: "07_queries" in made.log("server"), what="a whole stage")
        scene.kill("rewardds-server", "afterwards")
        assert scene.collecting.wait(30) == -signal.SIGKILL
        assert not (server / "report.html").exists()
        scene.look()
        for parts in SERVERS.values():
            assert not made.processes(server, *parts)
        assert not made.processes(made.clients["a"].path, *CLIENTS["client process"])
        scene.kill("node", "afterwards")
        scene.kill("rewardds-client", "afterwards")

        start_again(scene)
        again = made.start_collecting("run")

        assert again.wait(300) == 0, made.log("server")
        said = made.log("server")
        assert "The exchange of this folder is over already." in said
        assert "07_queries: from an earlier start" in said
        read_metrics(server / "metrics.json")
        assert (server / "report.html").is_file()
        wait_until(lambda: bool(made.processes(made.clients["b"].path, *CLIENTS["node"])),
                   what="b's node")  # fmt: skip
        scene.look()
        for name in ("a", "b"):
            check_ledger(made, name)


def start_again(scene: Scene) -> None:
    """Do what an operator or the machine's own supervisor does with what has ended for good."""
    made = scene.made
    if scene.collecting.poll() is not None:
        wait_until(lambda: not made.processes(made.server.path), what="the end of all it started")
        if read_outcome(made.server.path) is None:
            scene.collecting = made.start_collecting()
    if scene.supervisors["b"].poll() is not None:
        b = made.clients["b"].path
        wait_until(lambda: not made.processes(b), what="the end of all it started")
        scene.supervisors["b"] = made.start_client("b")


def reservations(made: Deployment, name: str) -> tuple[Reservation, ...]:
    folder = made.clients[name].ledger_folder
    # Before a client pays it has none, and a test must not be who makes it.
    return BudgetLedger(folder).reservations() if (folder / "ledger.jsonl").is_file() else ()


def check_ledger(made: Deployment, name: str) -> None:
    """Both proxies were paid for once, begun once and released once."""
    (reservation,) = reservations(made, name)

    assert sorted(event.proxy for event in reservation.events) == sorted(ProxyKind)
    assert sorted(reservation.started) == sorted(ProxyKind)
    assert sorted(reservation.released) == sorted(ProxyKind)
