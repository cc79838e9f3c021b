"""The exchange over Flower's grid: who was away is asked again, in time and not forever."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from protocol import PROTOCOL_VERSION
from protocol.errors import RefusalCode
from protocol.messages import HelloRequest, Refusal
from protocol.wire import encode
from server_side.app import GridChannel
from server_side.exchange.outcome import RunLostError

REQUEST = HelloRequest(protocol_version=PROTOCOL_VERSION)
BUSY = "document"
"""Name of the one record in a refusal."""


@pytest.fixture(autouse=True)
def _as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@dataclass(kw_only=True)
class FakeGrid:
    """Nodes that answer by a script: each request takes the next entry; None never answers."""

    script: Mapping[int, Sequence[int | str | None]]
    """By node: a number is an error code, a text a whole answer, `BUSY` a refusal."""
    away_after_error: int = 0
    """Looks at the nodes during which a node that gave an error is away."""
    restarts_at: int = 0
    """Look at the nodes at which all of them have started anew; 0 is never."""

    def __post_init__(self) -> None:
        self.asked: list[int] = []
        self.looks = 0
        self.activation = "first"
        self.ready: list[SimpleNamespace] = []
        self.left = {node: list(answers) for node, answers in self.script.items()}
        self.away: dict[int, int] = {}

    def get_nodes(self) -> Iterable[SimpleNamespace]:
        self.away = {node: looks - 1 for node, looks in self.away.items() if looks > 0}
        self.looks += 1
        if self.looks == self.restarts_at:
            self.activation = "later"
        return [
            SimpleNamespace(
                node_id=node, last_activated_at=self.activation, public_key=f"key {node}".encode()
            )
            for node in self.script
            if node not in self.away
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append(node)
            name = f"m{len(self.asked)}"
            sent.append(name)
            answer = self.left[node].pop(0)
            if answer is not None:
                self.ready.append(self._reply(name, node, answer))
        return sent

    def pull_messages(self, names: Iterable[str]) -> list[SimpleNamespace]:
        wanted = set(names)
        found = [reply for reply in self.ready if reply.metadata.reply_to_message_id in wanted]
        self.ready = [reply for reply in self.ready if reply not in found]
        # A transport may deliver the same thing twice.
        return found + found

    def _reply(self, name: str, node: int, answer: int | str) -> SimpleNamespace:
        is_error = isinstance(answer, int)
        if is_error and self.away_after_error:
            self.away[node] = self.away_after_error
        return SimpleNamespace(
            metadata=SimpleNamespace(reply_to_message_id=name, src_node_id=node),
            has_error=lambda: is_error,
            error=Error(code=answer, reason="secret") if isinstance(answer, int) else None,
            content=self._content(answer),
        )

    def _content(self, answer: int | str) -> RecordDict:
        if answer == BUSY:
            return encode(Refusal(code=RefusalCode.BUSY))
        return RecordDict({} if isinstance(answer, int) else {answer: ConfigRecord()})


def ask(grid: FakeGrid, *, seconds: float = 5.0, busy_seconds: float = 0.0) -> Mapping[int, str]:
    """Ask all nodes; return the name of the record in each answer."""
    channel = GridChannel(cast(Grid, grid), poll_seconds=0.01, busy_seconds=busy_seconds)
    requests = dict.fromkeys(grid.script, REQUEST)
    answers = channel.ask("hello", requests, timeout_seconds=seconds)
    return {node: next(iter(cast(RecordDict, content))) for node, content in answers.items()}


def test_each_client_answers_once_though_delivered_twice() -> None:
    grid = FakeGrid(script={1: ["one"], 2: ["two"]})

    assert ask(grid) == {1: "one", 2: "two"}
    assert grid.asked == [1, 2]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 8])
def test_a_client_that_was_cut_off_is_asked_again(code: int) -> None:
    grid = FakeGrid(script={1: [code, code, "one"], 2: ["two"]})

    assert ask(grid) == {1: "one", 2: "two"}
    assert grid.asked.count(1) == 3
    assert grid.asked.count(2) == 1


def test_a_client_is_asked_again_only_when_it_is_back() -> None:
    grid = FakeGrid(script={1: [5, "one"]}, away_after_error=10)

    assert ask(grid) == {1: "one"}
    assert grid.looks >= 10


def test_a_client_that_started_anew_is_asked_again() -> None:
    """A node that is back before Flower missed it leaves no error; what it had got is lost."""
    grid = FakeGrid(script={1: [None, "one"], 2: ["two"]}, restarts_at=5)

    assert ask(grid) == {1: "one", 2: "two"}
    assert grid.asked == [1, 2, 1]


@pytest.mark.parametrize("code", [1, 7])
def test_a_client_that_does_not_run_our_bundle_is_left_out_at_once(code: int) -> None:
    grid = FakeGrid(script={1: [code, "one"], 2: ["two"]})

    assert ask(grid) == {2: "two"}
    assert grid.asked == [1, 2]


def test_a_client_that_dies_again_and_again_is_left_out() -> None:
    """Each time it may begin a training that it pays for."""
    grid = FakeGrid(script={1: [8] * 50, 2: ["two"]})

    assert ask(grid) == {2: "two"}
    assert grid.asked.count(1) == 6


def test_a_client_that_was_taken_for_dead_and_is_still_at_work_is_asked_until_it_is_done() -> None:
    grid = FakeGrid(script={1: [8, BUSY, BUSY, "one"], 2: ["two"]})

    assert ask(grid) == {1: "one", 2: "two"}
    assert grid.asked.count(1) == 4


def test_a_busy_client_is_left_alone_for_a_while_and_has_said_so_at_the_deadline() -> None:
    """Each time it is asked it starts a process."""
    grid = FakeGrid(script={1: [BUSY] * 50, 2: ["two"]})

    assert ask(grid, seconds=0.5, busy_seconds=0.2) == {1: BUSY, 2: "two"}
    assert 2 <= grid.asked.count(1) <= 3


def test_a_refusal_for_any_other_reason_is_an_answer() -> None:
    grid = FakeGrid(script={1: ["one"]})
    refusal = encode(Refusal(code=RefusalCode.POLICY))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "_content", lambda _: refusal)
        assert ask(grid) == {1: BUSY}
    assert grid.asked == [1]


def test_a_client_that_never_answers_is_left_out_at_the_deadline() -> None:
    grid = FakeGrid(script={1: [None], 2: ["two"]})

    assert ask(grid, seconds=0.2) == {2: "two"}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (1, "pinned another bundle"),
        (2, "failed before it could answer"),
        (3, "did not arrive whole"),
        (4, "was lost"),
        (5, "is away"),
        (7, "does not trust this app bundle"),
        (8, "died"),
        (99, "an error without a name"),
    ],
)
def test_an_error_is_told_by_its_code_and_not_in_the_other_sides_words(
    caplog: pytest.LogCaptureFixture, code: int, told: str
) -> None:
    caplog.set_level(logging.DEBUG)

    ask(FakeGrid(script={1: [code, "one"]}))

    assert told in caplog.text
    assert "secret" not in caplog.text


def test_a_node_speaks_for_the_client_whose_key_it_has() -> None:
    grid = FakeGrid(script={3: [], 1: [], 2: []})

    channel = GridChannel(cast(Grid, grid), names={b"key 1": "ward", b"key 3": "clinic"})

    assert channel.clients() == {1: "ward", 3: "clinic"}


def test_without_keys_a_node_may_say_who_it_is() -> None:
    grid = FakeGrid(script={2: [], 1: []})

    assert GridChannel(cast(Grid, grid)).clients() == {1: None, 2: None}


def test_a_link_that_died_in_the_middle_of_a_handshake_is_a_lost_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower takes it for a wrong certificate and gives up; the exchange itself has not failed."""
    grid = FakeGrid(script={1: ["one"]})

    def die() -> Iterable[SimpleNamespace]:
        raise httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred")

    monkeypatch.setattr(grid, "get_nodes", die)

    with pytest.raises(RunLostError, match="got ConnectError"):
        ask(grid)
    with pytest.raises(RunLostError, match="got ConnectError"):
        GridChannel(cast(Grid, grid)).clients()
