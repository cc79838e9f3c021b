"""A large reply arrives whole, though the cable is pulled and the link is killed in its middle.

`REWARDDS_REPLY_MB` sets its size; 60 is what was tried, in both releases of both clients.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.config import LoraConfig
from lm.settings import save_settings
from tests.support.deployment import Deployment, deployment, releases
from tests.support.machines import World, wait_until
from tests.support.tiny_models import build_tiny_model

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1800)]

MEGABYTES = int(os.environ.get("REWARDDS_REPLY_MB", "60"))
WIDTH = 512 if MEGABYTES <= 100 else 2048
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Rank at which both factors of all modules of two layers have that size.
RANK = MEGABYTES * 1_000_000 // (128 * WIDTH)


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "wide", hidden_size=WIDTH)


def test_a_large_reply_outlives_a_pulled_cable_and_a_killed_link(
    cables: World, wide_base: Path, tmp_path: Path
) -> None:
    with deployment(cables, tmp_path, wide_base, deadline_seconds=800.0) as made:
        for name in ("a", "b"):
            widen(made, name)
        widen_server(made)
        for name in ("a", "b"):
            made.start_client(name)
        collecting = made.start_collecting()

        # With both clients sending, a fourth of one reply is the middle of at least one of them.
        in_the_middle(made, "generator")
        for machine in cables.clients:
            machine.cable(is_up=False)
        wait_until(
            lambda: all("Connection attempt failed" in since(made, name) for name in sending(made)),
            what="lost connections",
        )
        for machine in cables.clients:
            machine.cable(is_up=True)
        in_the_middle(made, "reward")
        made.kill(made.server.path, "flower-superlink")

        assert collecting.wait(900) == 0, made.log("server") + made.exchange_log()

        sizes = {name: len(data) for name, data in releases(made.server.path / "releases").items()}
        assert len(sizes) == 4
        assert min(sizes.values()) > 0.9 * MEGABYTES * 1e6
        assert [made.ledger(name)["reserve"] for name in ("a", "b")] == [1, 1]


def in_the_middle(made: Deployment, proxy: str) -> None:
    """Wait until a fourth of a reply has reached the server and no client is through with it."""
    sign = f"Sending: train.{proxy}"
    wait_until(lambda: any(sign in made.log(name) for name in ("a", "b")), what=f"a {proxy} reply")
    before = made.world.server.num_received_bytes()
    wait_until(
        lambda: made.world.server.num_received_bytes() - before > MEGABYTES * 250_000,
        what=f"a fourth of a {proxy} reply",
    )
    assert sending(made), "all replies were through already; take larger ones"


def sending(made: Deployment) -> list[str]:
    """Name the clients that are in the middle of sending."""
    return [
        name
        for name in ("a", "b")
        if "Sending: train." in made.log(name) and "Sent successfully" not in since(made, name)
    ]


def since(made: Deployment, name: str) -> str:
    """Give what a client wrote since it began to send its newest release."""
    return made.log(name).rpartition("Sending: train.")[2]


def widen(made: Deployment, name: str) -> None:
    folder = made.clients[name]
    config = folder.load_config()
    lora = LoraConfig(rank=RANK, target_modules=MODULES)
    save_settings(
        replace(
            config,
            generator=replace(config.generator, lora=lora, max_batch_tokens=64, steps=1),
            reward_proxy=replace(config.reward_proxy, lora=lora, max_batch_tokens=64, steps=1),
        ),
        folder.settings_file,
    )


def widen_server(made: Deployment) -> None:
    config = made.server.load_config()
    admission = replace(config.admission, max_release_bytes=2 * MEGABYTES * 1_000_000)
    save_settings(replace(config, admission=admission), made.server.settings_file)
