"""Pairs against other prompts, from a request to a release: those prompts are public."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.answering import guarded
from client_side.budget import BudgetLedger
from client_side.config import PreferencesConfig
from client_side.folder import ClientFolder
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, Refusal, ReleaseReply
from tests.support.answering import train
from tests.support.clients import client_config, make_client, training_request


def _client(
    tmp_path: Path, base_model: Path, *, public_prompts_path: str | None = None
) -> ClientFolder:
    preferences = PreferencesConfig(
        engine="transformers",
        generator_over_base=1.0,
        chosen_over_damaged=1.0,
        chosen_over_other_prompt=1.0,
        generator_over_other_prompt=1.0,
        public_prompts_path=public_prompts_path,
        num_public_prompts=8,
    )
    config = replace(client_config(base_model), preferences=preferences)
    return make_client(tmp_path / "client-1", config)


def _ask(
    client: ClientFolder, base_model: Path, proxy: ProxyKind
) -> HelloReply | ReleaseReply | Refusal:
    request = training_request(base_model, proxy)
    return guarded(
        client,
        lambda: train(request, proxy=proxy, folder=client),
    )


def test_a_reward_proxy_is_trained_on_all_kinds_of_pairs(tmp_path: Path, tiny_llama: Path) -> None:
    """Prompts of a public file, found in the client's own folder."""
    client = _client(tmp_path, tiny_llama, public_prompts_path="public.jsonl")
    (client.path / "public.jsonl").write_text('{"prompt": "when"}\n{"prompt": "who"}\n')

    replies = [_ask(client, tiny_llama, proxy) for proxy in ProxyKind]

    assert all(isinstance(reply, ReleaseReply) for reply in replies)
    assert len(BudgetLedger(client.ledger_folder).reservations()) == 1


def test_prompts_of_the_released_generator_serve_where_no_file_is_named(
    tmp_path: Path, tiny_llama: Path
) -> None:
    client = _client(tmp_path, tiny_llama)

    replies = [_ask(client, tiny_llama, proxy) for proxy in ProxyKind]

    assert all(isinstance(reply, ReleaseReply) for reply in replies)


@pytest.mark.parametrize(
    "path",
    [
        "records.jsonl",
        "../client-1/records.jsonl",
        "~/client-1/records.jsonl",
        "hard_link.jsonl",
        "symbolic_link.jsonl",
    ],
)
def test_the_records_own_prompts_are_never_taken_for_public(
    tmp_path: Path, tiny_llama: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another record's prompt in a record's pairs would couple the two; nothing is paid for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    client = _client(tmp_path, tiny_llama, public_prompts_path=path)
    records = client.path / "records.jsonl"
    (client.path / "hard_link.jsonl").hardlink_to(records)
    (client.path / "symbolic_link.jsonl").symlink_to(records)

    reply = _ask(client, tiny_llama, ProxyKind.GENERATOR)

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert "public_prompts_path" in json.loads(client.status_file.read_text())["reason"]
    assert not BudgetLedger(client.ledger_folder).reservations()


def test_a_missing_file_of_public_prompts_is_found_before_anything_is_paid_for(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """The generator's training does not need it, but its request pays for both proxies."""
    client = _client(tmp_path, tiny_llama, public_prompts_path="absent.jsonl")

    reply = _ask(client, tiny_llama, ProxyKind.GENERATOR)

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert not BudgetLedger(client.ledger_folder).reservations()
