"""How a client answers: its own settings decide, it pays before it trains, and it never raises."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_side import dp_sgd, running_code
from client_side.answering import answer_hello, guarded
from client_side.budget import BudgetLedger
from client_side.folder import ClientFolder
from client_side.proxy_training import ProxyTraining
from client_side.training_state import Binding, TrainingState, TrainingStateFile
from lm.settings import save_settings
from protocol import PROTOCOL_VERSION
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, HelloRequest, Refusal, ReleaseReply, TrainingRequest
from tests.support.answering import train
from tests.support.clients import client_config, make_client, training_request


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_client(tmp_path / "client-1", client_config(tiny_llama))


def ask(
    client: ClientFolder, request: TrainingRequest, proxy: ProxyKind | None = None
) -> HelloReply | ReleaseReply | Refusal:
    return guarded(
        client,
        lambda: train(request, proxy=proxy or request.proxy, folder=client),
    )


def spent(client: ClientFolder) -> int:
    return len(BudgetLedger(client.ledger_folder).reservations())


def test_hello_states_settings_only(client: ClientFolder) -> None:
    hello = HelloRequest(protocol_version=PROTOCOL_VERSION)
    reply = answer_hello(hello, folder=client, is_deployed=True)

    assert reply.client_name == "client-1"
    assert reply.declared_size == 24
    assert reply.epsilon_cap == 8.0


def test_both_proxies_are_released_at_one_composed_price(
    client: ClientFolder, tiny_llama: Path
) -> None:
    generator = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))
    reward = ask(client, training_request(tiny_llama, ProxyKind.REWARD))

    assert isinstance(generator, ReleaseReply)
    assert isinstance(reward, ReleaseReply)
    ledgers = [reply.release.certificate.privacy for reply in (generator, reward)]
    assert ledgers[0] == ledgers[1]
    assert len(ledgers[0].events) == 2
    assert 7.5 < ledgers[0].epsilon <= 8.0
    assert spent(client) == 1


def test_a_request_for_less_is_honoured(client: ClientFolder, tiny_llama: Path) -> None:
    reply = ask(
        client, training_request(tiny_llama, ProxyKind.GENERATOR, target_epsilon=2.0, steps=1)
    )

    assert isinstance(reply, ReleaseReply)
    certificate = reply.release.certificate
    assert certificate.privacy.epsilon <= 2.0
    assert {event.proxy: event.steps for event in certificate.privacy.events} == {
        ProxyKind.GENERATOR: 1,
        ProxyKind.REWARD: 2,
    }


def test_declared_size_far_from_the_truth_is_told_to_the_operator_alone(
    tmp_path: Path, tiny_llama: Path
) -> None:
    config = client_config(tiny_llama)
    config = replace(config, records=replace(config.records, declared_size=100))
    client = make_client(tmp_path / "client-1", config)

    reply = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    status = json.loads(client.status_file.read_text(encoding="utf-8"))
    assert "declared_size=100" in status["reason"]


def cut_off(
    client: ClientFolder,
    request: TrainingRequest,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before_step: int,
) -> None:
    """Let a training end by an error when it is about to do a step, counted from 0."""
    original, steps = dp_sgd._clipped_sum, itertools.count()

    def fail(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == before_step:
            raise RuntimeError("power cut")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(dp_sgd, "_clipped_sum", fail)
        assert ask(client, request) == Refusal(code=RefusalCode.INTERNAL)


def state_file(client: ClientFolder) -> Path:
    (path,) = (client.work_folder / "training").iterdir()
    return path


@pytest.mark.parametrize("before_step", [0, 1])
def test_a_training_that_was_cut_off_goes_on_without_paying_again(
    client: ClientFolder,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before_step: int,
) -> None:
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    told: list[tuple[str, int, int]] = []
    cut_off(client, request, monkeypatch, before_step=before_step)
    monkeypatch.setattr(
        ProxyTraining,
        "tell",
        lambda self, phase, done=0, total=0, epsilon=None: told.append((phase, done, total)),
    )
    caplog.set_level(logging.INFO)

    reply = ask(client, request)

    assert isinstance(reply, ReleaseReply)
    assert spent(client) == 1
    assert ("training", before_step, 2) in told
    assert ("training", 2, 2) in told
    assert f"goes on after step {before_step} of 2" in caplog.text
    assert not list((client.work_folder / "training").iterdir())


def test_a_training_whose_state_is_gone_stays_charged(
    client: ClientFolder,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    cut_off(client, request, monkeypatch, before_step=1)
    state_file(client).unlink()

    reply = ask(client, request)

    assert reply == Refusal(code=RefusalCode.BUDGET_EXCEEDED)
    assert "was cut off and must be paid for anew" in caplog.text
    assert "found none" in caplog.text


def test_a_training_whose_state_is_damaged_stays_charged(
    client: ClientFolder,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    cut_off(client, request, monkeypatch, before_step=1)
    data = bytearray(state_file(client).read_bytes())
    data[-1] ^= 1
    state_file(client).write_bytes(data)

    reply = ask(client, request)

    assert reply == Refusal(code=RefusalCode.BUDGET_EXCEEDED)
    assert "found it damaged" in caplog.text


def test_a_state_of_other_settings_waits_until_they_are_back(
    client: ClientFolder,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A refusal at the cap changes nothing, so an operator who erred can put it right."""
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    cut_off(client, request, monkeypatch, before_step=1)
    config = client.load_config()
    other = replace(config, generator=replace(config.generator, learning_rate=1e-4))

    save_settings(other, client.settings_file)
    refused = ask(client, request)
    save_settings(config, client.settings_file)
    reply = ask(client, request)

    assert refused == Refusal(code=RefusalCode.BUDGET_EXCEEDED)
    assert "another value of: generator." in caplog.text
    assert isinstance(reply, ReleaseReply)
    assert spent(client) == 1


def test_a_training_without_a_state_is_paid_for_anew_under_a_roomy_cap(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = client.load_config()
    roomy = replace(config.budget, lifetime_epsilon_cap=50.0)
    save_settings(replace(config, budget=roomy), client.settings_file)
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    cut_off(client, request, monkeypatch, before_step=1)
    state_file(client).unlink()
    cut_off(client, request, monkeypatch, before_step=1)

    reply = ask(client, request)

    assert isinstance(reply, ReleaseReply)
    assert spent(client) == 2
    assert len(reply.release.certificate.privacy.events) == 4


def test_a_request_of_another_run_never_goes_on_with_a_cut_off_training(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(client, training_request(tiny_llama, ProxyKind.GENERATOR), monkeypatch, before_step=1)

    reply = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR, run_id="run-2"))

    assert reply == Refusal(code=RefusalCode.BUDGET_EXCEEDED)


def test_a_full_disk_stops_the_training_and_what_is_saved_goes_on_later(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    original = TrainingStateFile.save

    def save(self: TrainingStateFile, state: TrainingState, binding: Binding) -> None:
        if state.num_steps == 2:
            patch.setattr(os, "pwrite", no_space)
        original(self, state, binding)

    def no_space(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStateFile, "save", save)
        first = ask(client, request)
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    second = ask(client, request)

    assert first == Refusal(code=RefusalCode.INTERNAL)
    assert "No space left on device" in reason
    assert isinstance(second, ReleaseReply)
    assert spent(client) == 1


def test_a_seed_that_was_set_after_paying_is_refused(
    client: ClientFolder, tiny_llama: Path
) -> None:
    """The ledger says that nobody can draw this noise again; a seed would make that untrue."""
    ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))
    config = client.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, noise_seed=1)), client.settings_file
    )

    reply = ask(client, training_request(tiny_llama, ProxyKind.REWARD))

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    assert "noise_seed" in reason


def test_a_public_size_that_was_changed_after_paying_is_refused(
    client: ClientFolder, tiny_llama: Path
) -> None:
    """The certificate says that the sample rate came from this number."""
    ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))
    config = client.load_config()
    other = replace(config, records=replace(config.records, declared_size=25))
    before = (client.ledger_folder / "ledger.jsonl").read_bytes()

    save_settings(other, client.settings_file)
    refused = ask(client, training_request(tiny_llama, ProxyKind.REWARD))
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    unchanged = (client.ledger_folder / "ledger.jsonl").read_bytes()
    save_settings(config, client.settings_file)
    reply = ask(client, training_request(tiny_llama, ProxyKind.REWARD))

    assert refused == Refusal(code=RefusalCode.INTERNAL)
    assert "records.declared_size" in reason
    assert unchanged == before
    assert isinstance(reply, ReleaseReply)
    assert reply.release.certificate.declared_size == 24


def test_sources_that_change_during_a_training_are_not_certified(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained is released once they are back, without another step or payment."""
    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    own = running_code.code_digest()
    disk = iter([own, "ab" * 32])

    with monkeypatch.context() as patch:
        patch.setattr(running_code, "_digest_on_disk", lambda: next(disk))
        refused = ask(client, request)
    monkeypatch.setattr(dp_sgd, "_clipped_sum", lambda *_, **__: pytest.fail("one step more"))
    reply = ask(client, request)

    assert refused == Refusal(code=RefusalCode.INTERNAL)
    assert isinstance(reply, ReleaseReply)
    assert reply.release.certificate.code_digest == own
    assert spent(client) == 1


def test_a_process_whose_sources_changed_trains_nothing(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_code, "_digest_on_disk", lambda: "ab" * 32)

    reply = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert spent(client) == 0


def test_a_base_model_that_is_replaced_during_a_training_is_not_certified(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    client = make_client(tmp_path / "client-1", client_config(base))
    request = training_request(base, ProxyKind.GENERATOR)
    file, step = base / "tokenizer.json", dp_sgd._clipped_sum
    original = file.read_bytes()

    def replace_base(*args: Any, **kwargs: Any) -> Any:
        file.write_bytes(original + b"\n")
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(dp_sgd, "_clipped_sum", replace_base)
        refused = ask(client, request)
    file.write_bytes(original)
    reply = ask(client, request)

    assert refused == Refusal(code=RefusalCode.INTERNAL)
    assert isinstance(reply, ReleaseReply)
    assert spent(client) == 1


def test_the_ledger_names_who_asked(client: ClientFolder, tiny_llama: Path) -> None:
    train(
        training_request(tiny_llama, ProxyKind.GENERATOR),
        proxy=ProxyKind.GENERATOR,
        folder=client,
        requested_by="server.example.org:9092",
    )

    (reservation,) = BudgetLedger(client.ledger_folder).reservations()
    assert reservation.requested_by == "server.example.org:9092"


def test_a_broken_settings_file_is_an_internal_refusal(
    client: ClientFolder, tiny_llama: Path
) -> None:
    client.settings_file.write_text("recods: 1\n", encoding="utf-8")

    reply = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))

    assert reply == Refusal(code=RefusalCode.INTERNAL)


def test_a_non_private_baseline_is_marked_with_an_infinite_epsilon(
    client: ClientFolder, tiny_llama: Path
) -> None:
    config = client.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, unsafe_non_private=True)),
        client.settings_file,
    )

    reply = ask(client, training_request(tiny_llama, ProxyKind.GENERATOR))

    assert isinstance(reply, ReleaseReply)
    assert reply.release.certificate.privacy.epsilon == float("inf")
