"""A large reply arrives whole, though the cable is pulled and the link is killed in its middle.

`REWARDDS_REPLY_MB` sets its size, in both releases of both clients; above 100 of one client alone,
so that one machine can hold it all. What is sent lies in the clients' stores, as after an earlier
try: random weights, released by the client's own egress, without hours of training. What was tried,
and what it took in time and memory, stands in docs/deploying.md; `-rP` shows the figures of a run.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from client_side.app import answer_bytes
from client_side.config import LoraConfig
from client_side.generator import TrainedProxy, lora_shape
from client_side.proxy_training import ProxyTraining
from client_side.request_checks import training_settings
from lm.adapter_shapes import expected_adapter_shapes
from lm.settings import save_settings
from protocol.ledger import ProxyKind
from protocol.wire import encode_bytes
from tests.support.clients import training_request
from tests.support.deployment import Deployment, deployment, releases
from tests.support.machines import World, wait_until
from tests.support.tiny_models import build_tiny_model

MEGABYTES = int(os.environ.get("REWARDDS_REPLY_MB", "60"))
NAMES = ("a", "b") if MEGABYTES <= 100 else ("a",)
SECONDS = 800.0 + 3 * MEGABYTES
"""What a release may take, sent twice and with all that is waited for in between."""

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1000 + 2 * SECONDS)]

WIDTH = 512 if MEGABYTES <= 100 else 2048
KINDS = {
    "gateway": "server_side.exchange.gateway",
    "link": "flower-superlink",
    "exchange": "flwr-serverapp",
    "node": "client_side.flower_node",
    "client process": "pinning.py",
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Rank at which both factors of all modules of two layers have that size.
RANK = MEGABYTES * 1_000_000 // (128 * WIDTH)


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "wide", hidden_size=WIDTH)


def test_a_large_reply_outlives_a_pulled_cable_and_a_killed_link(
    cables: World, wide_base: Path, tmp_path: Path
) -> None:
    with (
        deployment(
            cables, tmp_path, wide_base, min_clients=len(NAMES), deadline_seconds=SECONDS
        ) as made,
        memory_peaks(made) as peaks,
    ):
        for name in NAMES:
            widen(made, name)
        widen_server(made)
        for name in NAMES:
            fill_store(made, name, wide_base)
        for name in NAMES:
            made.start_client(name)
        collecting = made.start_collecting()

        # With both clients sending, a fourth of one reply is the middle of at least one of them.
        began = in_the_middle(made, "generator")
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

        assert collecting.wait(2 * SECONDS) == 0, made.log("server") + made.exchange_log()
        print(f"{time.monotonic() - began:.0f} s from the first reply's beginning to the end")
        for what, peak in sorted(peaks.items()):
            print(f"{what:<20} {peak / 1e6:6.0f} MB at most")

        sizes = {name: len(data) for name, data in releases(made.server.path / "releases").items()}
        assert len(sizes) == 2 * len(NAMES)
        assert min(sizes.values()) > 0.9 * MEGABYTES * 1e6
        assert [made.ledger(name)["reserve"] for name in NAMES] == [1] * len(NAMES)


def in_the_middle(made: Deployment, proxy: str) -> float:
    """Wait until a fourth of a reply is at the server and not all is; tell when it began."""
    sign = f"Sending: train.{proxy}"
    wait_until(lambda: any(sign in made.log(name) for name in NAMES), what=f"a {proxy} reply",
               seconds=SECONDS)  # fmt: skip
    began = time.monotonic()
    before = made.world.server.num_received_bytes()
    wait_until(
        lambda: made.world.server.num_received_bytes() - before > MEGABYTES * 250_000,
        what=f"a fourth of a {proxy} reply",
        seconds=SECONDS,
    )
    assert sending(made), "all replies were through already; take larger ones"
    return began


@contextlib.contextmanager
def memory_peaks(made: Deployment) -> Iterator[dict[str, int]]:
    """Note the largest resident memory of each kind of process."""
    peaks: dict[str, int] = {}
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.5):
            for folder in (made.server.path, *(folder.path for folder in made.clients.values())):
                for process in made.processes(folder):
                    with contextlib.suppress(psutil.Error, OSError):
                        line = " ".join(process.cmdline())
                        what = next((name for name, part in KINDS.items() if part in line), "")
                        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                        # A process that has just ended has no such line.
                        found = re.search(r"VmHWM:\s+(\d+)", status)
                        if what and found:
                            peaks[what] = max(peaks.get(what, 0), int(found[1]) * 1024)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        is_over.set()
        thread.join()


def sending(made: Deployment) -> list[str]:
    """Name the clients that are in the middle of sending."""
    return [
        name
        for name in NAMES
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
            generator=replace(config.generator, lora=lora, steps=1),
            reward_proxy=replace(config.reward_proxy, lora=lora, steps=1),
        ),
        folder.settings_file,
    )


def fill_store(made: Deployment, name: str, wide_base: Path) -> None:
    """Let a client answer the coming requests, with random weights in the place of a training."""
    folder = made.clients[name]

    def draw(training: ProxyTraining, *_: object) -> TrainedProxy:
        shape = lora_shape(training_settings(training.config, training.proxy))
        is_reward = training.proxy is ProxyKind.REWARD
        shapes = expected_adapter_shapes(wide_base, shape, has_reward_head=is_reward)
        rng = np.random.default_rng(1)
        tensors = {key: rng.standard_normal(size, dtype=np.float32) for key, size in shapes.items()}
        return TrainedProxy(lora=shape, tensors=tensors, private_losses=())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProxyTraining, "_train", draw)
        for proxy in ProxyKind:
            request = training_request(wide_base, proxy, run_id=made.server.run_id())
            answer_bytes(proxy.value, encode_bytes(request), folder=folder.path)
    assert made.ledger(name)["release"] == len(ProxyKind)


def widen_server(made: Deployment) -> None:
    config = made.server.load_config()
    admission = replace(config.admission, max_release_bytes=2 * MEGABYTES * 1_000_000)
    save_settings(replace(config, admission=admission), made.server.settings_file)
