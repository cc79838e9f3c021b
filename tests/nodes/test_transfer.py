"""A large reply arrives whole, though the cable is pulled and the link is killed in its middle.

`REWARDDS_REPLY_MB` sets its size; 500 was tried by hand (docs/deploying.md says how long it took).
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
    world: World, wide_base: Path, tmp_path: Path
) -> None:
    with deployment(world, tmp_path, wide_base, deadline_seconds=800.0) as made:
        for name in ("a", "b"):
            widen(made, name)
        widen_server(made)
        for name in ("a", "b"):
            made.start_client(name)
        collecting = made.start_collecting()

        wait_until(lambda: num_pieces(made) >= 3, what="the middle of a transfer", seconds=600)
        if world.is_isolated:
            sender = next(name for name in ("a", "b") if "train.generator message" in made.log(name)
                          and "Sending: train.generator" in made.log(name))  # fmt: skip
            made.machine(sender).cable(is_up=False)
            lost = made.log(sender).count("Connection attempt failed")
            wait_until(
                lambda: (
                    made.log(sender).count("Connection attempt failed") > lost
                    or "Sent successfully" in made.log(sender).split("Sending: train.generator")[1]
                ),
                what="a lost connection",
            )
            made.machine(sender).cable(is_up=True)
        wait_until(
            lambda: any("Sending: train.reward" in made.log(name) for name in ("a", "b")),
            what="the second transfer",
            seconds=800,
        )
        made.kill(made.server.path, "flower-superlink")

        assert collecting.wait(900) == 0, made.log("server") + made.exchange_log()

        sizes = {name: len(data) for name, data in releases(made.server.path / "releases").items()}
        assert len(sizes) == 4
        assert min(sizes.values()) > 0.9 * MEGABYTES * 1e6
        assert [made.ledger(name)["reserve"] for name in ("a", "b")] == [1, 1]


def num_pieces(made: Deployment) -> int:
    """Count the pieces of replies that the link took."""
    log = made.server.logs_folder / "link.log"
    return (
        log.read_text(encoding="utf-8").count("POST /v1/fleet/push-object") if log.exists() else 0
    )


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
