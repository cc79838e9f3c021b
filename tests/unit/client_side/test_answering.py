"""How a client answers: its own settings decide, it pays before it trains, and it never raises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.answering import answer_hello, answer_training, guarded
from client_side.budget import BudgetLedger
from client_side.folder import ClientFolder
from client_side.proxy_training import ReleaseCodec
from lm.settings import save_settings
from protocol import PROTOCOL_VERSION
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, HelloRequest, Refusal, ReleaseReply, TrainingRequest
from protocol.wire import decode_bytes, encode_bytes
from tests.support.clients import client_config, make_client, training_request

CODEC = ReleaseCodec(encode=encode_bytes, decode=lambda data: decode_bytes(data, ReleaseReply))


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_client(tmp_path / "client-1", client_config(tiny_llama))


def ask(
    client: ClientFolder, request: TrainingRequest, proxy: ProxyKind | None = None
) -> HelloReply | ReleaseReply | Refusal:
    return guarded(
        client,
        lambda: answer_training(request, proxy=proxy or request.proxy, folder=client, codec=CODEC),
    )


def spent(client: ClientFolder) -> int:
    return len(BudgetLedger(client.ledger_folder).reservations())


def test_hello_states_settings_only(client: ClientFolder) -> None:
    reply = answer_hello(HelloRequest(protocol_version=PROTOCOL_VERSION), folder=client)

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


def test_a_training_cut_off_stays_charged(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("power cut")

    request = training_request(tiny_llama, ProxyKind.GENERATOR)
    with monkeypatch.context() as patch:
        patch.setattr("client_side.generator.train_generator", fail)
        first = ask(client, request)
    second = ask(client, request)

    assert first == Refusal(code=RefusalCode.INTERNAL)
    assert second == Refusal(code=RefusalCode.BUDGET_EXCEEDED)


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
