"""What an exchange between real nodes comes to when somebody does not do what was hoped for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.network import NodeFiles
from lm.logs import LogFormat
from lm.settings import save_settings
from tests.support.clients import CANARY
from tests.support.deployment import Deployment, deployment, releases
from tests.support.machines import World, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(900)]


def test_a_run_is_answered_again_from_the_stores_without_new_cost(
    world: World, base: Path, tmp_path: Path
) -> None:
    """The server loses everything but its name for the run, and asks again; all log as JSON."""
    with deployment(world, tmp_path, base, log_format=LogFormat.JSON) as made:
        for name in ("a", "b"):
            files = NodeFiles(folder=made.clients[name])
            files.save(replace(files.load(), log_format=LogFormat.JSON))
            made.start_client(name)
        assert made.start_collecting().wait(400) == 0, made.log("server")
        first = releases(made.server.path / "releases")
        ledgers = {name: made.ledger(name) for name in ("a", "b")}
        shutil.rmtree(made.server.path / "releases")
        (made.server.path / "exchange.json").unlink()

        assert made.start_collecting().wait(400) == 0, made.log("server")

        assert len(first) == 4
        assert releases(made.server.path / "releases") == first
        assert {name: made.ledger(name) for name in ("a", "b")} == ledgers
    check_logs(made)


def test_a_refusal_and_another_bundle_are_seen_as_failed(
    world: World, base: Path, tmp_path: Path
) -> None:
    """One client refuses, the other has pinned another bundle; the server says both, and fails."""
    with deployment(world, tmp_path, base) as made:
        refuse(made, "a")
        pin_another_bundle(made, "b")
        for name in ("a", "b"):
            made.start_client(name)

        code = made.start_collecting().wait(400)

        assert code == 1
        said = made.log("server")
        assert "Expected both proxies of at least 2 clients" in said
        assert "generator refused: budget_exceeded" in said
        assert "pinned another bundle" in made.exchange_log()
        assert "Nothing of it was run" in made.log("b")
        assert made.ledger("a") == {"reserve": 1}, "what was spent before"
        assert not made.ledger("b")
        assert not (made.clients["b"].path / "status.json").exists()


def test_a_client_that_never_answers_is_left_out_at_the_deadline(
    cables: World, base: Path, tmp_path: Path
) -> None:
    """Its cable is pulled for good in the middle of its training; one client is enough."""
    with deployment(
        cables, tmp_path, base, min_clients=1, steps=600, num_clients=2, deadline_seconds=100.0
    ) as made:
        for name in ("a", "b"):
            made.start_client(name)
        collecting = made.start_collecting()
        wait_until(lambda: made.is_training("b", "generator"), what="b's training")
        made.machine("b").cable(is_up=False)
        try:
            code = collecting.wait(500)
        finally:
            made.machine("b").cable(is_up=True)

        assert code == 0, made.log("server")
        answers = made.answers()
        assert answers["client-a"]["reward"] == "admitted"
        assert answers["client-b"]["generator"] == "no answer"


def test_a_cable_pulled_in_the_middle_of_a_transfer_costs_nothing(
    cables: World, base: Path, tmp_path: Path
) -> None:
    with deployment(cables, tmp_path, base) as made:
        for name in ("a", "b"):
            made.start_client(name)
        collecting = made.start_collecting()
        sending = "Sending: train.generator"
        wait_until(lambda: sending in made.log("a"), what="a transfer")
        made.machine("a").cable(is_up=False)
        wait_until(lambda: "Connection attempt failed" in made.log("a").split(sending)[1],
                   what="a lost connection")  # fmt: skip
        made.machine("a").cable(is_up=True)

        assert collecting.wait(400) == 0, made.log("server")

        assert made.ledger("a")["reserve"] == 1
        assert made.answers()["client-a"]["reward"] == "admitted"


def check_logs(made: Deployment) -> None:
    """Whoever wrote a line: it is an object, and no record is in it."""
    logs = [*made.root.glob("*.log"), made.server.path / "exchange.log"]
    logs += made.server.logs_folder.glob("*.log")
    said = {}
    for file in logs:
        text = file.read_text(encoding="utf-8")
        assert CANARY not in text
        entries = [json.loads(line) for line in text.splitlines()]
        said[file.name] = " ".join(entry["message"] for entry in entries)
        assert all({"time", "level", "where"} <= entry.keys() for entry in entries)
    assert said.keys() == {
        "a.log", "b.log", "server.log", "exchange.log", "link.log", "executor.log", "gateway.log"
    }  # fmt: skip
    # Flower's node, the client process, Flower's link and the exchange, each by a line of its own.
    assert "Sent successfully" in said["a.log"]
    assert "Answering again with the stored generator release." in said["a.log"]
    assert "Fleet.PushMessages" in said["link.log"]
    assert "client-a, reward: admitted" in said["exchange.log"]


def refuse(made: Deployment, name: str) -> None:
    """Lower the cap below what the run would cost."""
    folder = made.clients[name]
    config = folder.load_config()
    # Below the target on purpose; such settings come from an operator who has spent the rest.
    budget = replace(config.budget, target_epsilon=1.0, lifetime_epsilon_cap=1.0)
    save_settings(replace(config, budget=budget), folder.settings_file)
    spend(made, name)


def spend(made: Deployment, name: str) -> None:
    """Use the cap up, as earlier runs on the same records would have."""
    from client_side.budget import BudgetLedger, BudgetPolicy
    from client_side.records import load_records
    from protocol.ledger import DpSgdEvent, PrivacyUnit, ProxyKind

    folder = made.clients[name]
    config = folder.load_config()
    records = load_records(replace(config.records, path=folder.records_path(config)))
    BudgetLedger(folder.ledger_folder).reserve(
        run_id="earlier",
        request_digest="0" * 64,
        events=[
            DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=3.0, sample_rate=0.25, steps=100)
        ],
        unit=PrivacyUnit.RECORD,
        unit_keys=[record.unit_id for record in records],
        policy=BudgetPolicy(lifetime_epsilon_cap=100.0, delta=1e-5, unsafe_non_private=False),
    )


def pin_another_bundle(made: Deployment, name: str) -> None:
    files = NodeFiles(folder=made.clients[name])
    files.save(replace(files.load(), bundle_sha256="0" * 64))
