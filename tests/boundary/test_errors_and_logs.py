"""Gate 6: whatever happens inside a client, a bare code comes out and no record text is logged.

Flower forwards the text of an uncaught exception to the server, and tokenizer and JSON errors
quote their input, so each place where a third party could fail is made to fail with a record.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from client_side.app import FOLDERS_VARIABLE, answer_bytes
from client_side.budget import BudgetLedger
from client_side.folder import SERVER_KEY, ClientFolder
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal, ReleaseReply
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from tests.support.clients import CANARY, client_config, make_client, training_request
from tests.support.tasks import send

PLACES = [
    "client_side.folder.load_settings",
    "client_side.records.load_records",
    "client_side.budget.BudgetLedger.reserve",
    "client_side.generator.train_generator",
    "client_side.generator.encode_chat",
    "client_side.generator.load_tokenizer",
    "client_side.request_checks.calibrate",
    "client_side.proxy_training.bind_training",
    "client_side.training_state.write_whole",
    "client_side.training_state.TrainingStateFile.load",
    "client_side.training_state.TrainingStateFile.discard",
    "client_side.proxy_training.release",
    "client_side.folder.ClientFolder.load_config",
    "client_side.folder.ClientFolder.write_status",
]
ERRORS = [
    ValueError(f"could not read {CANARY}"),
    KeyError(CANARY),
    RuntimeError(CANARY),
    MemoryError(CANARY),
    UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, "bad byte"),
    ExceptionGroup(CANARY, [ValueError(CANARY)]),
]


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_client(tmp_path / "client-1", client_config(tiny_llama))


@pytest.mark.parametrize("place", PLACES)
def test_an_error_that_quotes_a_record_leaves_as_a_bare_code(
    client: ClientFolder,
    tiny_llama: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    request = encode_bytes(training_request(tiny_llama, ProxyKind.GENERATOR))

    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError(f"could not parse {CANARY}")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(place, fail)

    reply = answer_bytes("generator", request, folder=client.path)

    assert CANARY.encode() not in reply
    captured = capfd.readouterr()
    assert CANARY not in caplog.text + captured.out + captured.err
    assert isinstance(decode_bytes(reply, Refusal, ReleaseReply), (Refusal, ReleaseReply))
    if client.status_file.exists():
        assert CANARY not in client.status_file.read_text(encoding="utf-8")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_kind_of_error_is_contained(
    client: ClientFolder,
    tiny_llama: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("client_side.records.load_records", fail)
    caplog.set_level(logging.DEBUG)
    request = training_request(tiny_llama, ProxyKind.GENERATOR)

    reply = answer_bytes("generator", encode_bytes(request), folder=client.path)

    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.INTERNAL)
    assert type(error).__name__ in caplog.text
    assert CANARY not in caplog.text


def test_the_flower_handler_answers_a_failure_with_a_message_and_not_an_error(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ValueError(CANARY)

    monkeypatch.setattr("client_side.records.load_records", fail)

    reply = send(
        client.path, "train.generator", encode(training_request(tiny_llama, ProxyKind.GENERATOR))
    )

    assert not reply.has_error()
    assert decode(reply.content, Refusal) == Refusal(code=RefusalCode.INTERNAL)


@pytest.mark.parametrize(
    ("node_config", "requested_by"),
    [({SERVER_KEY: "server.example.org:9092"}, "server.example.org:9092"), ({}, "")],
)
def test_the_ledger_names_the_server_of_the_nodes_own_configuration(
    client: ClientFolder, tiny_llama: Path, node_config: dict[str, str], requested_by: str
) -> None:
    """The server has no say in what a client's ledger calls it."""
    request = encode(training_request(tiny_llama, ProxyKind.GENERATOR))

    reply = send(client.path, "train.generator", request, node_config=node_config)

    assert isinstance(decode(reply.content, ReleaseReply), ReleaseReply)
    (reservation,) = BudgetLedger(client.ledger_folder).reservations()
    assert reservation.requested_by == requested_by


def test_runs_without_a_server_say_so_in_the_ledger(client: ClientFolder, tiny_llama: Path) -> None:
    request = encode_bytes(training_request(tiny_llama, ProxyKind.GENERATOR))

    answer_bytes("generator", request, folder=client.path)

    (reservation,) = BudgetLedger(client.ledger_folder).reservations()
    assert reservation.requested_by == "in-process simulation"


def test_clients_of_the_simulation_engine_say_so_in_the_ledger(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS_VARIABLE, str(client.path.parent))
    request = encode(training_request(tiny_llama, ProxyKind.GENERATOR))

    send(None, "train.generator", request, node_config={"partition-id": 0})

    (reservation,) = BudgetLedger(client.ledger_folder).reservations()
    assert reservation.requested_by == "Flower's simulation engine"


def test_no_log_line_of_a_whole_exchange_holds_a_record(
    client: ClientFolder,
    tiny_llama: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = []

    for proxy in ProxyKind:
        request = encode_bytes(training_request(tiny_llama, proxy))
        sent.append(answer_bytes(proxy.value, request, folder=client.path))

    captured = capfd.readouterr()
    assert all(isinstance(decode_bytes(data, ReleaseReply), ReleaseReply) for data in sent)
    assert all(CANARY.encode() not in data for data in sent)
    assert CANARY not in caplog.text + captured.out + captured.err
