"""A request for the reward proxy: what its generator's request paid for is trained, once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_side import generator, reward_proxy
from client_side.answering import guarded
from client_side.budget import BudgetLedger
from client_side.folder import ClientFolder
from lm.settings import save_settings
from protocol.errors import ConfigurationError, RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, Refusal, ReleaseReply
from tests.support.answering import train
from tests.support.clients import client_config, make_client, training_request


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_client(tmp_path / "client-1", client_config(tiny_llama))


def ask(
    client: ClientFolder, base: Path, proxy: ProxyKind, **changes: object
) -> HelloReply | ReleaseReply | Refusal:
    request = training_request(base, proxy, **changes)
    return guarded(client, lambda: train(request, proxy=proxy, folder=client))


def test_preferences_that_could_not_be_sampled_are_mended_without_a_second_payment(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says to change them, and the cap has no room for another training."""
    assert isinstance(ask(client, tiny_llama, ProxyKind.GENERATOR), ReleaseReply)

    def fail(*_: Any, **__: Any) -> Any:
        raise ConfigurationError("Name public ones in preferences.public_prompts_path.")

    with monkeypatch.context() as patch:
        patch.setattr(reward_proxy, "build_preferences", fail)
        refused = ask(client, tiny_llama, ProxyKind.REWARD)
    config = client.load_config()
    mended = replace(config, preferences=replace(config.preferences, temperature=0.5))
    save_settings(mended, client.settings_file)

    reply = ask(client, tiny_llama, ProxyKind.REWARD)

    assert refused == Refusal(code=RefusalCode.INTERNAL)
    assert isinstance(reply, ReleaseReply)
    assert len(BudgetLedger(client.ledger_folder).reservations()) == 1


def test_steps_that_were_not_paid_for_are_refused_as_a_matter_of_policy(
    client: ClientFolder, tiny_llama: Path
) -> None:
    """Otherwise other steps than asked for would be trained without a word."""
    assert isinstance(ask(client, tiny_llama, ProxyKind.GENERATOR), ReleaseReply)

    reply = ask(client, tiny_llama, ProxyKind.REWARD, steps=1)

    assert reply == Refusal(code=RefusalCode.POLICY)
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    assert "2 steps" in reason
    assert isinstance(ask(client, tiny_llama, ProxyKind.REWARD, steps=2), ReleaseReply)


def test_a_generator_that_learnt_from_other_records_writes_no_pairs(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a release tells of the records that it was trained on is paid for by those alone."""
    assert isinstance(ask(client, tiny_llama, ProxyKind.GENERATOR), ReleaseReply)
    records = client.path / "records.jsonl"
    records.write_text(records.read_text("utf-8").replace("asks", "demands"), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(generator, "train_generator", lambda *_, **__: 1 / 0)
        # Another request of the same run, since the first one has its stored answer.
        ask(client, tiny_llama, ProxyKind.GENERATOR, steps=1)

    reply = ask(client, tiny_llama, ProxyKind.REWARD)

    first, second = BudgetLedger(client.ledger_folder).reservations()
    assert first.data_key != second.data_key
    assert (set(first.released), set(second.released)) == ({ProxyKind.GENERATOR}, set())
    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert second.started == first.started == (ProxyKind.GENERATOR,)
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    assert "to be released first, from these very records" in reason


@pytest.mark.parametrize("is_released", [False, True])
def test_the_generator_that_wrote_the_pairs_is_gone_once_the_reward_is_stored(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, is_released: bool
) -> None:
    assert isinstance(ask(client, tiny_llama, ProxyKind.GENERATOR), ReleaseReply)
    for name in ("generator-0123456789abcdef", ".generator-0123.killed", "gguf"):
        (client.work_folder / name).mkdir()
    if not is_released:
        monkeypatch.setattr(
            BudgetLedger, "record_release", lambda *_, **__: (_ for _ in ()).throw(OSError())
        )

    ask(client, tiny_llama, ProxyKind.REWARD)

    left = {path.name for path in client.work_folder.iterdir()} - {"training"}
    assert len(left) == (0 if is_released else 4)
