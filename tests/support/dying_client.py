"""A client's process that kills itself with SIGKILL at a named point of its training."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from client_side import dp_sgd, ledger_file, proxy_training, reward_proxy
from client_side.app import answer_bytes
from client_side.budget import BudgetLedger
from client_side.folder import ClientFolder
from client_side.ledger_file import LedgerFile
from client_side.proxy_training import ProxyTraining
from client_side.randomness import Randomness
from client_side.training_state import TrainingStateFile
from protocol.documents import Json
from protocol.ledger import ProxyKind
from protocol.wire import encode_bytes
from tests.support.clients import training_request
from tests.support.samplers import FakeSampler

STEPS: Final = 4

POINTS: Final = {
    "before it is noted as begun": 0,
    "before the first step": 0,
    "before the second step": 1,
    "before a step is saved": 1,
    "in the middle of writing": 1,
    "after a step was saved": 2,
    "after the last step": STEPS,
    "before the release is noted": STEPS,
    "after the release was stored": STEPS,
}
"""Where a process can die, with the number of whole steps that it leaves behind."""


def watch(patch: pytest.MonkeyPatch, log: Path) -> None:
    """Write down every vector of noise and every step that became whole.

    Negatives come from a sampler that answers by prefix alone: what is asked here is not a model's
    arithmetic.
    """
    gaussian, save = Randomness.gaussian, TrainingStateFile.save

    def note(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def watched_gaussian(self: Randomness, *args: Any, **kwargs: Any) -> Any:
        noise = gaussian(self, *args, **kwargs)
        note(f"noise {hashlib.sha256(noise.tobytes()).hexdigest()}")
        return noise

    def watched_save(self: TrainingStateFile, state: Any, binding: Any) -> None:
        save(self, state, binding)
        note(f"whole {state.num_steps}")

    patch.setattr(Randomness, "gaussian", watched_gaussian)
    patch.setattr(TrainingStateFile, "save", watched_save)
    patch.setattr(
        reward_proxy,
        "open_sampler",
        lambda *_, **__: FakeSampler(lambda prefix, n: (100 + sum(prefix) % 20, 101)),
    )


def die_at(patch: pytest.MonkeyPatch, point: str) -> None:
    """Arrange for this process to be killed at a point."""
    save, write_all = TrainingStateFile.save, ledger_file._write_all

    def at(owner: Any, name: str, *, call: int = 1, after: bool = False) -> None:
        original, seen = getattr(owner, name), 0

        def dying(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == call and not after:
                die()
            result = original(*args, **kwargs)
            if seen == call:
                die()
            return result

        patch.setattr(owner, name, dying)

    append = LedgerFile.append

    def append_or_die(self: LedgerFile, entry: dict[str, Json]) -> None:
        if entry["kind"] == "release":
            die()
        append(self, entry)

    def write_half(file: int, data: bytes, *, offset: int) -> None:
        write_all(file, data[: len(data) // 2], offset=offset)
        die()

    def save_half(self: TrainingStateFile, state: Any, binding: Any) -> None:
        if state.num_steps == 2:
            patch.setattr(ledger_file, "_write_all", write_half)
        save(self, state, binding)

    # The first save is the one before the training begins.
    arrange: dict[str, Callable[[], None]] = {
        "before it is noted as begun": lambda: at(BudgetLedger, "start"),
        "before the first step": lambda: at(dp_sgd, "_clipped_sum"),
        "before the second step": lambda: at(dp_sgd, "_clipped_sum", call=2),
        "before a step is saved": lambda: at(TrainingStateFile, "save", call=3),
        "in the middle of writing": lambda: patch.setattr(TrainingStateFile, "save", save_half),
        "after a step was saved": lambda: at(TrainingStateFile, "save", call=3, after=True),
        "after the last step": lambda: at(proxy_training, "release"),
        "before the release is noted": lambda: patch.setattr(LedgerFile, "append", append_or_die),
        "after the release was stored": lambda: at(ProxyTraining, "discard_state"),
    }
    assert arrange.keys() == POINTS.keys()
    arrange[point]()


def die() -> None:
    """End as by `kill -9`: nothing is flushed, closed or tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def ask(folder: Path, proxy: ProxyKind) -> bytes:
    """Send the one request of this test to a client."""
    base_model = Path(ClientFolder(path=folder).load_config().base_model)
    request = encode_bytes(training_request(base_model, proxy))
    return answer_bytes(proxy.value, request, folder=folder)


def answer_or_die(folder: Path, proxy: ProxyKind, point: str, log: Path) -> None:
    """Answer one request, and write down what was drawn and which steps became whole."""
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, log)
        die_at(patch, point)
        ask(folder, proxy)
