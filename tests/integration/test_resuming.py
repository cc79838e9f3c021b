"""`kill -9` at every kind of moment of a training: paid once, every step once, no noise twice."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from client_side.budget import BudgetLedger
from client_side.config import ClientConfig
from client_side.folder import ClientFolder
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal, ReleaseReply
from protocol.wire import decode_bytes
from server_side.admission import AdmittedRelease, admit
from server_side.exchange.admission_terms import admission_terms
from tests.support.clients import RUN_ID, client_config, make_client, server_config
from tests.support.dying_client import POINTS, STEPS, answer_or_die, ask, watch
from tests.support.forked import exit_status

pytestmark = pytest.mark.integration


def patient_config(base_model: Path, *, noise_seed: int | None = None) -> ClientConfig:
    """Give settings in which everything that a state must carry has an effect."""
    config = client_config(base_model)
    changes: Mapping[str, Any] = {
        "steps": STEPS,
        "average_last_fraction": 0.75,
        "warmup_fraction": 0.25,
        "decay_to_fraction": 0.5,
    }
    return replace(
        config,
        budget=replace(config.budget, noise_seed=noise_seed),
        generator=replace(config.generator, **changes),
        reward_proxy=replace(config.reward_proxy, head_learning_rate_ratio=5.0, **changes),
    )


@dataclass(frozen=True, kw_only=True)
class TwoLives:
    """A client that was killed once and asked again."""

    folder: ClientFolder
    reply: bytes
    first: list[str]
    """Lines that the killed process wrote."""
    second: list[str]
    """Lines of the process that went on."""
    left_behind: Mapping[Path, int]
    """Mode of each path that the killed process left under the work folder."""
    second_status: list[Mapping[str, Any]]
    """What the operator was told in the second life."""


def kill_and_ask_again(
    folder: ClientFolder, proxy: ProxyKind, point: str, patch: pytest.MonkeyPatch
) -> TwoLives:
    logs = [folder.path.parent / f"{folder.path.name}-{life}.log" for life in ("first", "second")]
    status = exit_status(answer_or_die, folder.path, proxy, point, logs[0])
    assert status == -signal.SIGKILL
    work = folder.work_folder
    left_behind = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (work, work / "training", *(work / "training").iterdir())
    }
    told: list[Mapping[str, Any]] = []
    write_status = ClientFolder.write_status

    def watched_status(self: ClientFolder, status: Mapping[str, object]) -> None:
        told.append(status)
        write_status(self, status)

    with patch.context() as inner:
        watch(inner, logs[1])
        inner.setattr(ClientFolder, "write_status", watched_status)
        inner.setattr("client_side.proxy_training._STATUS_SECONDS", 0.0)
        reply = ask(folder.path, proxy)
    first, second = (
        log.read_text(encoding="utf-8").splitlines() if log.exists() else [] for log in logs
    )
    return TwoLives(
        folder=folder,
        reply=reply,
        first=first,
        second=second,
        left_behind=left_behind,
        second_status=told,
    )


def with_generator(folder: ClientFolder, proxy: ProxyKind, patch: pytest.MonkeyPatch) -> None:
    """Release the generator first, where the reward proxy is what the test is about."""
    if proxy is ProxyKind.REWARD:
        with patch.context() as inner:
            watch(inner, folder.path.parent / "generator.log")
            decode_bytes(ask(folder.path, ProxyKind.GENERATOR), ReleaseReply)


def admitted(reply: bytes, base_model: Path, **changes: Any) -> AdmittedRelease:
    config = server_config(base_model)
    config = replace(config, admission=replace(config.admission, **changes))
    policy, shapes = admission_terms(config, run_id=RUN_ID)
    return admit(reply, policy=policy, expected_shapes=shapes)


def picked(lines: list[str], kind: str) -> list[str]:
    return [line.split()[1] for line in lines if line.startswith(f"{kind} ")]


@pytest.mark.parametrize(
    ("proxy", "point"),
    [
        *((ProxyKind.GENERATOR, point) for point in POINTS),
        (ProxyKind.REWARD, "before the first step"),
        (ProxyKind.REWARD, "in the middle of writing"),
        (ProxyKind.REWARD, "after a step was saved"),
        (ProxyKind.REWARD, "before the release is noted"),
    ],
)
def test_a_killed_training_is_paid_once_and_ends_after_the_planned_steps(
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxy: ProxyKind,
    point: str,
) -> None:
    folder = make_client(tmp_path / "client-1", patient_config(tiny_llama))
    with_generator(folder, proxy, monkeypatch)

    lives = kill_and_ask_again(folder, proxy, point, monkeypatch)

    done = POINTS[point]
    whole = [int(step) for step in picked(lives.first, "whole") + picked(lives.second, "whole")]
    assert [step for step in whole if step > 0] == list(range(1, STEPS + 1))
    assert f"whole {done}" in lives.first[-2:]

    noise = picked(lives.first, "noise") + picked(lives.second, "noise")
    assert len(noise) == len(set(noise))
    num_lost = sum(point == lost for lost in ("before a step is saved", "in the middle of writing"))
    assert len(noise) == STEPS + num_lost

    (reservation,) = BudgetLedger(folder.ledger_folder).reservations()
    assert reservation.started.count(proxy) == 1
    assert reservation.released.count(proxy) == 1
    lines = (folder.ledger_folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    starts = [entry for line in lines if (entry := json.loads(line)["entry"])["kind"] == "start"]
    assert [entry["proxy"] for entry in starts].count(proxy.value) == 1

    release = admitted(lives.reply, tiny_llama)
    assert release.epsilon <= 8.0
    assert [event.steps for event in reservation.events if event.proxy is proxy] == [STEPS]

    # Two folders and the state, and beside it half of the next one where that was being written.
    assert len(lives.left_behind) == (4 if point == "in the middle of writing" else 3)
    for path, mode in lives.left_behind.items():
        assert mode == (0o600 if path.is_file() or not path.exists() else 0o700), path
    assert not list((folder.work_folder / "training").iterdir())


def test_the_operator_sees_where_a_killed_training_goes_on(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_client(tmp_path / "client-1", patient_config(tiny_llama))

    lives = kill_and_ask_again(folder, ProxyKind.GENERATOR, "after a step was saved", monkeypatch)

    steps = [
        (status["done"], status["total"])
        for status in lives.second_status
        if status["phase"] == "training"
    ]
    assert steps == [(2, STEPS), (3, STEPS), (4, STEPS)]


@pytest.mark.parametrize("proxy", list(ProxyKind))
@pytest.mark.parametrize("point", ["before a step is saved", "after a step was saved"])
def test_under_a_seed_a_killed_training_ends_with_the_very_same_weights(
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    proxy: ProxyKind,
    point: str,
) -> None:
    """Averaged iterates, schedule and the head's own step size included."""
    config = patient_config(tiny_llama, noise_seed=11)
    undisturbed = make_client(tmp_path / "undisturbed", config)
    killed = make_client(tmp_path / "killed", config)
    for folder in (undisturbed, killed):
        with_generator(folder, proxy, monkeypatch)

    lives = kill_and_ask_again(killed, proxy, point, monkeypatch)
    with monkeypatch.context() as patch:
        watch(patch, tmp_path / "undisturbed.log")
        expected = ask(undisturbed.path, proxy)

    found, wanted = (
        admitted(reply, tiny_llama, accept_reproducible_noise=True).release.weights
        for reply in (lives.reply, expected)
    )
    assert found.to_bytes() == wanted.to_bytes()
    log = (tmp_path / "undisturbed.log").read_text(encoding="utf-8")
    seeded = picked(log.splitlines(), "noise")
    assert len(set(seeded)) == STEPS
    assert set(picked(lives.first + lives.second, "noise")) == set(seeded)


def test_a_state_from_another_clients_folder_is_not_taken(
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same request, records and settings; only the reservation differs."""
    folders = [
        make_client(tmp_path / name, patient_config(tiny_llama)) for name in ("one", "other")
    ]
    points = ("after a step was saved", "before the second step")
    for folder, point in zip(folders, points, strict=True):
        exit_status(answer_or_die, folder.path, ProxyKind.GENERATOR, point, tmp_path / "log")
    one, other = (next((folder.work_folder / "training").iterdir()) for folder in folders)
    assert one.name == other.name
    other.write_bytes(one.read_bytes())

    reply = ask(folders[1].path, ProxyKind.GENERATOR)

    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.BUDGET_EXCEEDED)
    assert "another value of: reservation." in caplog.text
