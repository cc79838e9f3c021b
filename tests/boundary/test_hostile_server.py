"""Gate 5: what a hostile server asks for changes no setting, gets a bare code and costs nothing.

Attack by attack. A request can ask for less than the client's own settings give, and for nothing
else. After each attack the lifetime ledger is what it was, byte for byte, and no training was
begun. Settings that somebody edits beneath a running node are tried in `test_real_node.py`, what
happens to errors and logs on the way in `test_errors_and_logs.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from client_side import generator, reward_proxy
from client_side.app import answer_bytes
from client_side.budget import BudgetLedger
from client_side.folder import FOLDER_KEY, ClientFolder
from lm.settings import save_settings
from protocol import PROTOCOL_VERSION
from protocol.documents import dump_canonical, to_document
from protocol.errors import RefusalCode
from protocol.ledger import MAX_STEPS, ProxyKind
from protocol.messages import HelloReply, HelloRequest, Refusal, ReleaseReply, TrainingRequest
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from tests.support.clients import RUN_ID, client_config, make_client, training_request
from tests.support.tasks import send

GENERATOR: Final = ProxyKind.GENERATOR.value


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A client under attack, which notes every training that is begun."""

    folder: ClientFolder
    base_model: Path
    trained: list[str]

    def request(self, proxy: ProxyKind = ProxyKind.GENERATOR, **changes: object) -> bytes:
        """Give a request that can be written down properly."""
        return encode_bytes(training_request(self.base_model, proxy, **changes))

    def crafted(self, **changes: object) -> bytes:
        """Give a request with values and fields that no honest server could write down."""
        body = to_document(training_request(self.base_model, ProxyKind.GENERATOR))
        assert isinstance(body, dict)
        return framed({**body, **changes})

    def answer(self, data: bytes, action: str = GENERATOR) -> HelloReply | ReleaseReply | Refusal:
        reply = answer_bytes(action, data, folder=self.folder.path)
        if action == "hello":
            return decode_bytes(reply, HelloReply, Refusal)
        return decode_bytes(reply, ReleaseReply, Refusal)

    def spent(self) -> Mapping[str, bytes]:
        """Give everything that the lifetime ledger holds."""
        folder = self.folder.ledger_folder
        return {
            str(file.relative_to(folder)): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }

    def configure(self, **budget: object) -> None:
        config = self.folder.load_config()
        changed = replace(config.budget, **budget)  # type: ignore[arg-type]  # names checked by replace
        save_settings(replace(config, budget=changed), self.folder.settings_file)


def framed(body: object, *, kind: str = "training_request") -> bytes:
    document = dump_canonical({"body": body, "kind": kind, "version": PROTOCOL_VERSION})
    return b"RewardDS\x01\n" + len(document).to_bytes(8, "big") + document


@pytest.fixture
def victim(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    folder = make_client(tmp_path / "client-1", client_config(tiny_llama))
    BudgetLedger(folder.ledger_folder)  # its key is made at the first look
    trained: list[str] = []

    def noting(name: str, train: Callable[..., object]) -> Callable[..., object]:
        def note(*args: object, **kwargs: object) -> object:
            trained.append(name)
            return train(*args, **kwargs)

        return note

    for module, name in ((generator, "train_generator"), (reward_proxy, "train_reward_proxy")):
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    return Victim(folder=folder, base_model=tiny_llama, trained=trained)


def assert_refused_for_nothing(
    victim: Victim, data: bytes, code: RefusalCode, *, action: str = GENERATOR
) -> None:
    before, trained = victim.spent(), list(victim.trained)

    assert victim.answer(data, action) == Refusal(code=code)
    assert victim.spent() == before
    assert victim.trained == trained


# Asking for too much.


TOO_MUCH: Final[dict[str, tuple[dict[str, object], RefusalCode]]] = {
    "an epsilon of 100": ({"target_epsilon": 100.0}, RefusalCode.POLICY),
    "a little more epsilon": ({"target_epsilon": 8.000001}, RefusalCode.POLICY),
    "a delta of one half": ({"target_delta": 0.5}, RefusalCode.POLICY),
    "one step more": ({"steps": 3}, RefusalCode.POLICY),
    "a million steps": ({"steps": MAX_STEPS}, RefusalCode.POLICY),
    "another base model": ({"base_model_digest": "ab" * 32}, RefusalCode.BASE_MODEL),
    "a later protocol": ({"protocol_version": PROTOCOL_VERSION + 1}, RefusalCode.VERSION),
    "the other proxy": ({"proxy": ProxyKind.REWARD}, RefusalCode.MALFORMED),
}


@pytest.mark.parametrize("attack", TOO_MUCH)
def test_asking_for_more_than_the_client_gives(victim: Victim, attack: str) -> None:
    changes, code = TOO_MUCH[attack]

    assert_refused_for_nothing(victim, victim.request(**changes), code)


NOT_A_REQUEST: Final[dict[str, dict[str, object]]] = {
    "an infinite epsilon": {"target_epsilon": "infinite"},
    "an epsilon below zero": {"target_epsilon": -8.0},
    "a delta of one": {"target_delta": 1.0},
    "steps beyond any count": {"steps": 10**15},
    "no noise, by a field of its own": {"noise_multiplier": 0.0},
    "no privacy, in the operator's own word": {"unsafe_non_private": True},
    "noise that it can predict": {"noise_seed": 42},
    "another cap": {"lifetime_epsilon_cap": 1000.0},
    "another public size": {"declared_size": 1},
    "a path for the records": {"path": "/etc/passwd"},
    "a path for the base model": {"base_model": "/srv/evil"},
    "a path in place of a digest": {"base_model_digest": "../../../etc/passwd"},
    "a path in place of a run": {"run_id": "../../ledger/ledger.jsonl"},
    "a line break in the run": {"run_id": "run-1\nRefused with code ok"},
    "a path in place of a proxy": {"proxy": "../generator"},
    "an import in place of a proxy": {"proxy": "os.system"},
    "a class to build": {"_target_": "os.system"},
}


@pytest.mark.parametrize("attack", NOT_A_REQUEST)
def test_saying_what_no_request_can_say(victim: Victim, attack: str) -> None:
    data = victim.crafted(**NOT_A_REQUEST[attack])

    assert_refused_for_nothing(victim, data, RefusalCode.MALFORMED)


def test_the_crafted_requests_differ_from_a_good_one_in_that_alone(victim: Victim) -> None:
    assert victim.crafted() == victim.request()


def test_asking_for_the_reward_proxy_first(victim: Victim) -> None:
    """Its price is part of the generator's reservation."""
    data = victim.request(ProxyKind.REWARD)

    assert_refused_for_nothing(victim, data, RefusalCode.ORDER, action="reward")


@pytest.mark.parametrize("action", ["hello", "generator", "reward"])
@pytest.mark.parametrize("kind", ["hello_reply", "release_reply", "refusal", "shutdown", "../x"])
def test_sending_another_kind_of_message(victim: Victim, action: str, kind: str) -> None:
    data = framed({"code": "busy"}, kind=kind)

    assert_refused_for_nothing(victim, data, RefusalCode.MALFORMED, action=action)


# Asking too often.


def test_the_same_thing_a_thousand_times(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    """One training, one reservation; after that the stored bytes, without looking at a record."""
    config, data = victim.folder.load_config(), victim.request()
    # Parsing the settings takes ten times as long as the answer, and is not what this is about.
    monkeypatch.setattr(ClientFolder, "load_config", lambda _: config)
    first = answer_bytes(GENERATOR, data, folder=victim.folder.path)
    spent = victim.spent()
    (victim.folder.path / "records.jsonl").unlink()

    others = {answer_bytes(GENERATOR, data, folder=victim.folder.path) for _ in range(1000)}

    assert isinstance(decode_bytes(first, ReleaseReply), ReleaseReply)
    assert others == {first}
    assert victim.trained == ["train_generator"]
    assert victim.spent() == spent
    assert len(BudgetLedger(victim.folder.ledger_folder).reservations()) == 1


def test_the_same_thing_for_other_runs(victim: Victim) -> None:
    """Every run is charged anew, until the cap says no."""
    assert isinstance(victim.answer(victim.request()), ReleaseReply)

    for number in range(20):
        data = victim.request(run_id=f"other-{number}")
        assert_refused_for_nothing(victim, data, RefusalCode.BUDGET_EXCEEDED)


def test_a_large_epsilon_in_pieces(victim: Victim) -> None:
    """Pieces are composed with all that went before them, and not counted one by one."""
    victim.configure(lifetime_epsilon_cap=15.0)

    replies = [victim.answer(victim.request(run_id=f"piece-{number}")) for number in range(5)]

    prices = [
        reply.release.certificate.privacy.epsilon
        for reply in replies
        if isinstance(reply, ReleaseReply)
    ]
    assert len(prices) > 1
    assert prices == sorted(prices)
    assert prices[-1] <= 15.0
    assert replies[len(prices) :] == [Refusal(code=RefusalCode.BUDGET_EXCEEDED)] * (5 - len(prices))
    assert len(victim.trained) == len(prices)


def test_having_budget_reserved_that_is_then_not_used(victim: Victim) -> None:
    """A limit that these records are above already is refused before anything is charged."""
    victim.configure(lifetime_epsilon_cap=100.0)
    assert isinstance(victim.answer(victim.request()), ReleaseReply)

    for number in range(5):
        data = victim.request(run_id=f"small-{number}", target_epsilon=0.5)
        assert_refused_for_nothing(victim, data, RefusalCode.BUDGET_EXCEEDED)


@pytest.mark.parametrize("run_id", ["run-1", "run-2"], ids=["the same", "another"])
def test_two_things_at_once(victim: Victim, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    train = generator.train_generator
    replies: list[object] = []

    def wait_and_train(*args: Any, **kwargs: Any) -> object:
        begun.set()
        assert go_on.wait(60)
        return train(*args, **kwargs)

    monkeypatch.setattr(generator, "train_generator", wait_and_train)
    first = threading.Thread(target=lambda: replies.append(victim.answer(victim.request())))
    first.start()
    try:
        assert begun.wait(60)
        status = victim.folder.status_file.read_bytes()
        assert_refused_for_nothing(victim, victim.request(run_id=run_id), RefusalCode.BUSY)
        assert victim.folder.status_file.read_bytes() == status
    finally:
        go_on.set()
        first.join()

    assert [type(reply) for reply in replies] == [ReleaseReply]
    assert victim.trained == ["train_generator"]
    assert len(BudgetLedger(victim.folder.ledger_folder).reservations()) == 1


# Sending what is no message.


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Victim:
    """A client without records: what gets as far as reading them is refused in another way."""
    path = tmp_path_factory.mktemp("target") / "client-1"
    folder = make_client(path, client_config(tiny_llama))
    (path / "records.jsonl").unlink()
    BudgetLedger(folder.ledger_folder)
    return Victim(folder=folder, base_model=tiny_llama, trained=[])


def refusal_of(target: Victim, action: str, data: bytes) -> RefusalCode:
    before = target.spent()
    reply = target.answer(data, action)

    assert isinstance(reply, Refusal)
    assert target.spent() == before
    return reply.code


actions = st.sampled_from(["hello", "generator", "reward"])


@given(action=actions, data=st.binary(max_size=300))
def test_any_bytes(target: Victim, action: str, data: bytes) -> None:
    assert refusal_of(target, action, data) is RefusalCode.MALFORMED


@given(action=actions, document=st.binary(max_size=300), weights=st.binary(max_size=50))
def test_any_document_in_a_proper_frame(
    target: Victim, action: str, document: bytes, weights: bytes
) -> None:
    data = b"RewardDS\x01\n" + len(document).to_bytes(8, "big") + document + weights

    assert refusal_of(target, action, data) is RefusalCode.MALFORMED


def test_one_changed_bit_of_a_good_request_gets_past_the_checks_in_its_run_alone(
    target: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = target.folder.load_config()
    monkeypatch.setattr(ClientFolder, "load_config", lambda _: config)  # parsed once, for speed
    good = training_request(target.base_model, ProxyKind.GENERATOR)
    data = encode_bytes(good)

    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        if refusal_of(target, GENERATOR, changed) is RefusalCode.INTERNAL:
            # As far as the records that are not there.
            assert replace(decode_bytes(changed, TrainingRequest), run_id=RUN_ID) == good


@given(length=st.integers(0, 10**6))
def test_a_good_request_cut_off(target: Victim, length: int) -> None:
    data = target.request()

    assert refusal_of(target, GENERATOR, data[: length % len(data)]) is RefusalCode.MALFORMED


@pytest.mark.parametrize("attack", TOO_MUCH)
def test_asking_for_too_much_is_refused_before_any_record_is_read(
    target: Victim, attack: str
) -> None:
    changes, code = TOO_MUCH[attack]

    assert refusal_of(target, GENERATOR, target.request(**changes)) is code


def test_a_good_request_gets_as_far_as_the_records_that_are_not_there(target: Victim) -> None:
    assert refusal_of(target, GENERATOR, target.request()) is RefusalCode.INTERNAL


# Using what Flower carries beside a message of ours.


PICKLE: Final = b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94."


def _array(data: bytes) -> ArrayRecord:
    return ArrayRecord({"safetensors": Array("uint8", (len(data),), "safetensors", data)})


NOT_RECORDS: Final = {
    "nothing": RecordDict(),
    "a folder": RecordDict({"x": ConfigRecord({"folder": "/etc"})}),
    "a pickle": RecordDict({"document": ConfigRecord({"json": PICKLE})}),
    "a text": RecordDict({"document": ConfigRecord({"json": "text"})}),
    "a number": RecordDict({"document": MetricRecord({"json": 1.0})}),
    "weights": RecordDict({"weights": _array(PICKLE)}),
}


@pytest.mark.parametrize("message_type", ["query.hello", "train.generator", "train.reward"])
@pytest.mark.parametrize("attack", NOT_RECORDS)
def test_records_that_are_no_request(victim: Victim, message_type: str, attack: str) -> None:
    before = victim.spent()

    reply = send(victim.folder.path, message_type, NOT_RECORDS[attack])

    assert decode(reply.content, Refusal) == Refusal(code=RefusalCode.MALFORMED)
    assert victim.spent() == before


def test_weights_beside_a_request(victim: Victim) -> None:
    content = encode(training_request(victim.base_model, ProxyKind.GENERATOR))
    content["weights"] = _array(b"\x00" * 100)

    reply = send(victim.folder.path, "train.generator", content)

    assert decode(reply.content, Refusal) == Refusal(code=RefusalCode.MALFORMED)
    assert victim.trained == []


def test_another_folder_in_the_run_configuration(victim: Victim, tmp_path: Path) -> None:
    """The folder comes from the node's configuration, which is on the client's side."""
    make_client(tmp_path / "other", client_config(victim.base_model, name="other"))
    hello = encode(HelloRequest(protocol_version=PROTOCOL_VERSION))

    reply = send(victim.folder.path, "query.hello", hello, **{FOLDER_KEY: str(tmp_path / "other")})

    assert decode(reply.content, HelloReply).client_name == "client-1"


def test_the_operator_reads_what_was_tried(victim: Victim) -> None:
    victim.answer(victim.request(target_epsilon=100.0))

    status = json.loads(victim.folder.status_file.read_text(encoding="utf-8"))
    assert "target_epsilon <= 8" in status["reason"]
