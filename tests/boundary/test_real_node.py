"""A running node never trains or sends without secret noise, whatever became of its settings.

Settings are read anew for each request, so somebody may have edited them since the node started.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import RecordDict

from client_side import records
from client_side.app import answer_bytes
from client_side.folder import SIMULATED_VARIABLE, ClientFolder
from lm.settings import save_settings
from protocol import PROTOCOL_VERSION
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloReply, HelloRequest, Refusal, ReleaseReply
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from tests.support.clients import NUM_RECORDS, client_config, make_client, training_request
from tests.support.tasks import send

HELLO = encode(HelloRequest(protocol_version=PROTOCOL_VERSION))
UNSAFE: list[dict[str, Any]] = [{"noise_seed": 1}, {"unsafe_non_private": True}]
EMPTY_CLAIM: dict[str, Any] = {"target_delta": 1 / NUM_RECORDS}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that was started, and what its client processes read."""

    folder: ClientFolder
    base_model: Path
    reads: list[str]

    def ask(self, content: RecordDict, message_type: str) -> HelloReply | ReleaseReply | Refusal:
        reply = send(self.folder.path, message_type, content).content
        return decode(reply, HelloReply if message_type == "query.hello" else ReleaseReply, Refusal)

    def train(self, proxy: ProxyKind) -> HelloReply | ReleaseReply | Refusal:
        request = training_request(self.base_model, proxy)
        return self.ask(encode(request), f"train.{proxy.value}")

    def edit(self, **budget: Any) -> None:
        config = self.folder.load_config()
        changed = replace(config, budget=replace(config.budget, **budget))
        save_settings(changed, self.folder.settings_file)

    def ledger(self) -> bytes:
        file = self.folder.ledger_folder / "ledger.jsonl"
        return file.read_bytes() if file.exists() else b""


@pytest.fixture
def node(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    folder = make_client(tmp_path / "client-1", client_config(tiny_llama))
    reads: list[str] = []
    load = records.load_records

    def note(config: Any) -> Any:
        reads.append(config.path)
        return load(config)

    monkeypatch.setattr(records, "load_records", note)
    return Node(folder=folder, base_model=tiny_llama, reads=reads)


@pytest.mark.parametrize("budget", [*UNSAFE, EMPTY_CLAIM])
def test_settings_that_turned_unsafe_are_refused_before_a_record_is_read(
    node: Node, budget: dict[str, Any]
) -> None:
    assert isinstance(node.ask(HELLO, "query.hello"), HelloReply)
    node.edit(**budget)

    answers = [node.train(proxy) for proxy in ProxyKind] + [node.ask(HELLO, "query.hello")]

    assert answers == [Refusal(code=RefusalCode.INTERNAL)] * 3
    assert "on a real node" in node.folder.status_file.read_text(encoding="utf-8")
    assert node.reads == []
    assert node.ledger() == b""


@pytest.mark.parametrize("budget", [*UNSAFE, EMPTY_CLAIM])
def test_settings_that_turned_unsafe_between_the_two_proxies_are_refused(
    node: Node, budget: dict[str, Any]
) -> None:
    assert isinstance(node.train(ProxyKind.GENERATOR), ReleaseReply)
    node.edit(**budget)
    before, reads = node.ledger(), list(node.reads)

    assert node.train(ProxyKind.REWARD) == Refusal(code=RefusalCode.INTERNAL)
    assert (node.ledger(), node.reads) == (before, reads)


@pytest.mark.parametrize("budget", UNSAFE)
def test_what_a_simulation_left_in_the_folder_neither_leaves_nor_goes_on(
    node: Node, budget: dict[str, Any]
) -> None:
    """Its release lies in the store, and its reward proxy is paid for, at the noise of then."""
    request = training_request(node.base_model, ProxyKind.GENERATOR)
    node.edit(**budget)
    left = answer_bytes("generator", encode_bytes(request), folder=node.folder.path)
    node.edit(noise_seed=None, unsafe_non_private=False)
    before, reads = node.ledger(), list(node.reads)

    answers = [node.train(proxy) for proxy in ProxyKind]

    assert isinstance(decode_bytes(left, ReleaseReply, Refusal), ReleaseReply)
    assert answers == [Refusal(code=RefusalCode.INTERNAL)] * 2
    assert (node.ledger(), node.reads) == (before, reads)
    assert "a folder of its own" in node.folder.status_file.read_text(encoding="utf-8")


def test_a_node_with_safe_settings_answers(node: Node) -> None:
    """So that what stands above is refused for what was edited."""
    assert isinstance(node.ask(HELLO, "query.hello"), HelloReply)
    assert all(isinstance(node.train(proxy), ReleaseReply) for proxy in ProxyKind)


@pytest.mark.parametrize("budget", UNSAFE)
def test_only_a_node_that_a_simulation_started_answers_without_secret_noise(
    node: Node, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any]
) -> None:
    """A SuperNode that somebody started by hand, around the supervisor, counts as a real one."""
    node.edit(**budget)

    by_hand = node.ask(HELLO, "query.hello")
    monkeypatch.setenv(SIMULATED_VARIABLE, "1")
    simulated = node.ask(HELLO, "query.hello")

    assert by_hand == Refusal(code=RefusalCode.INTERNAL)
    assert isinstance(simulated, HelloReply)
