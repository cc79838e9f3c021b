"""Every process is killed in the middle of an exchange, and the exchange comes to its end.

One exchange on two clients' machines: what is killed, and in which phase, stands in the test. The
ledgers are compared at the end: whatever was interrupted, each client paid for each training that
it began, and what had been answered was never trained again.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from protocol.ledger import ProxyKind
from server_side.outcome import read_outcome
from tests.support.deployment import Deployment, deployment, releases
from tests.support.machines import World, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]

LINK = ("flower-superlink",)
EXECUTOR = ("flower-superexec", "--superexec-auth-secret-file")
GATEWAY = ("server_side.gateway",)
SERVER_APP = ("flwr-serverapp", "--token")
NODE = ("client_side.flower_node",)
CLIENT_APP = ("pinning.py",)
STEPS = 150


def test_an_exchange_outlives_the_death_of_each_process(
    world: World, base: Path, tmp_path: Path
) -> None:
    with deployment(world, tmp_path, base, steps=STEPS) as made:
        server, a, b = made.server.path, made.clients["a"].path, made.clients["b"].path
        collecting = made.start_collecting()
        wait_until(lambda: "waiting for 2" in made.log("server"), what="a server that waits")
        # While it waits for clients: each of the server's processes.
        for parts in (LINK, EXECUTOR, GATEWAY):
            made.kill(server, *parts)
        supervisors = {name: made.start_client(name) for name in ("a", "b")}

        # While generators are trained: link, one client's process, the other's whole node.
        wait_until(lambda: made.is_training("a", "generator"), what="a's training")
        made.kill(a, *CLIENT_APP)
        made.kill(server, *LINK)
        wait_until(
            lambda: made.is_training("b", "generator") or made.ledger("b")["release"] > 0,
            what="b's training",
        )
        made.kill(b, *NODE)

        # While reward proxies are trained: gateway and the exchange's own process.
        wait_until(
            lambda: "for the reward proxy" in made.exchange_log(), what="reward", seconds=400
        )
        before = releases(server / "releases")
        made.kill(server, *GATEWAY)
        made.kill(server, *SERVER_APP)
        wait_until(lambda: "Submitting the exchange again" in made.log("server"), what="a new run",
                   seconds=300)  # fmt: skip
        # And the server as a whole, and a client's supervisor: their operators start them again.
        collecting.kill()
        assert collecting.wait(30) == -signal.SIGKILL
        supervisors["a"].kill()
        supervisors["a"].wait(30)
        wait_until(lambda: not made.processes(server), what="the end of the server's processes")
        wait_until(lambda: not made.processes(a), what="the end of a's processes")
        made.start_client("a")

        assert made.start_collecting().wait(500) == 0, made.log("server") + made.exchange_log()

        outcome = read_outcome(server)
        assert outcome is not None
        assert outcome["error"] is None
        after = releases(server / "releases")
        assert len(after) == 4
        # What was admitted before is still there, byte for byte.
        assert {name: after[name] for name in before} == before
        for name in ("a", "b"):
            check_ledger(made, name)


def check_ledger(made: Deployment, name: str) -> None:
    """Each training was paid for, and each proxy released once."""
    from client_side.budget import BudgetLedger

    reservations = BudgetLedger(made.clients[name].ledger_folder).reservations()
    started = [kind for item in reservations for kind in item.started]
    released = [kind for item in reservations for kind in item.released]

    paid = [event.proxy for item in reservations for event in item.events]
    assert sorted(released) == sorted(ProxyKind)
    assert all(paid.count(kind) >= started.count(kind) >= 1 for kind in ProxyKind)
