"""Gate 6: whatever happens inside a client, a bare code comes out and no record text is logged.

Flower forwards the text of an uncaught exception to the server, and tokenizer and JSON errors
quote their input, so each place where a third party could fail is made to fail with a record.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.app import FOLDERS_VARIABLE, answer_bytes
from client_side.budget import BudgetLedger
from client_side.folder import SERVER_KEY, ClientFolder
from lm.settings import save_settings
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal, ReleaseReply
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from tests.support.clients import CANARY, client_config, make_client, training_request
from tests.support.tasks import send

GENERATOR_PLACES = [
    "client_side.folder.load_settings",
    "client_side.records.load_records",
    "client_side.budget.BudgetLedger.reserve",
    "client_side.generator.train_generator",
    "client_side.generator.encode_chat",
    "client_side.generator.load_tokenizer",
    "client_side.request_checks.calibrate",
    "client_side.proxy_training.bind_training",
    "client_side.training_state.write_whole",
    "client_side.training_state.TrainingStateFile.discard",
    "client_side.proxy_training.release",
    "client_side.folder.ClientFolder.load_config",
    "client_side.folder.ClientFolder.write_status",
]
# Where private prompts meet third-party code once the generator is out.
REWARD_PLACES = [
    "client_side.proxy_training.ReleasedGenerator",
    "client_side.reward_proxy.merge_adapter",
    "client_side.reward_proxy.open_sampler",
    "client_side.reward_proxy.build_preferences",
    "client_side.preferences.encode_chat",
    "client_side.preferences.damage_ids",
    "client_side.preferences.answer_other_prompts",
    "lm.sampling_transformers.draw_tokens",
    "client_side.reward_proxy.build_reward_model",
    "client_side.reward_proxy.record_row",
]
PLACES = [
    *((place, ProxyKind.GENERATOR) for place in GENERATOR_PLACES),
    *((place, ProxyKind.REWARD) for place in REWARD_PLACES),
]


class Panic(BaseException):
    """What libraries in Rust raise: no `Exception`, and a slice that fails quotes its text."""


ERRORS = [
    ValueError(f"could not read {CANARY}"),
    KeyError(CANARY),
    RuntimeError(CANARY),
    MemoryError(CANARY),
    UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, "bad byte"),
    ExceptionGroup(CANARY, [ValueError(CANARY)]),
    Panic(f"byte index 3 is not a char boundary; it is inside {CANARY}"),
]


@pytest.fixture
def client(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    return make_client(tmp_path / "client-1", client_config(tiny_llama))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Folder of a client that released its generator, and whose pairs are of all kinds."""
    config = client_config(tiny_llama)
    preferences = replace(
        config.preferences,
        chosen_over_damaged=1.0,
        chosen_over_other_prompt=1.0,
        num_public_prompts=4,
    )
    folder = tmp_path_factory.mktemp("released") / "client-1"
    client = make_client(folder, replace(config, preferences=preferences))
    ask(client, tiny_llama, ProxyKind.GENERATOR)
    return client.path


def ask(client: ClientFolder, base_model: Path, proxy: ProxyKind) -> bytes:
    request = encode_bytes(training_request(base_model, proxy))
    return answer_bytes(proxy.value, request, folder=client.path)


def client_for(proxy: ProxyKind, tmp_path: Path, base_model: Path, released: Path) -> ClientFolder:
    """Give a client that is ready to be asked for a proxy."""
    if proxy is ProxyKind.GENERATOR:
        return make_client(tmp_path / "client-1", client_config(base_model))
    shutil.copytree(released, tmp_path / "client-1")
    return ClientFolder(path=tmp_path / "client-1")


class Failure:
    """Fails with a record in its text, and counts how often."""

    def __init__(self, error: BaseException) -> None:
        self.times = 0
        self._error = error

    def __call__(self, *args: object, **kwargs: object) -> None:
        self.times += 1
        raise self._error


@pytest.mark.parametrize(("place", "proxy"), PLACES)
def test_an_error_that_quotes_a_record_leaves_as_a_bare_code(
    tmp_path: Path,
    tiny_llama: Path,
    released: Path,
    place: str,
    proxy: ProxyKind,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    client = client_for(proxy, tmp_path, tiny_llama, released)
    fail = Failure(ValueError(f"could not parse {CANARY}"))
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(place, fail)

    reply = ask(client, tiny_llama, proxy)

    assert fail.times > 0
    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.INTERNAL)
    captured = capfd.readouterr()
    assert CANARY not in caplog.text + captured.out + captured.err
    if client.status_file.exists():
        assert CANARY not in client.status_file.read_text(encoding="utf-8")


def test_an_error_of_a_saved_state_leaves_as_a_bare_code(
    client: ClientFolder,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is read by the request after the one that was cut off."""
    caplog.set_level(logging.DEBUG)
    with monkeypatch.context() as patch:
        patch.setattr("client_side.proxy_training.release", Failure(ValueError("cut off")))
        ask(client, tiny_llama, ProxyKind.GENERATOR)
    fail = Failure(ValueError(f"could not parse {CANARY}"))
    monkeypatch.setattr("client_side.training_state.TrainingStateFile.load", fail)

    reply = ask(client, tiny_llama, ProxyKind.GENERATOR)

    assert fail.times == 1
    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.INTERNAL)
    assert CANARY not in caplog.text + client.status_file.read_text(encoding="utf-8")


def test_what_openvino_says_while_it_samples_is_not_taken_for_our_own_words(
    tmp_path: Path,
    tiny_llama: Path,
    released: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = client_for(ProxyKind.REWARD, tmp_path, tiny_llama, released)
    config = client.load_config()
    openvino = replace(config, preferences=replace(config.preferences, engine="openvino"))
    save_settings(openvino, client.settings_file)
    fail = Failure(RuntimeError(f"Check failed\nin a request for {CANARY}"))
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("lm.sampling_openvino.OpenVinoSampler._add", fail)

    reply = ask(client, tiny_llama, ProxyKind.REWARD)

    assert fail.times == 1
    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.INTERNAL)
    status = client.status_file.read_text(encoding="utf-8")
    assert "got RuntimeError" in status
    assert CANARY not in caplog.text + status


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_kind_of_error_is_contained(
    client: ClientFolder,
    tiny_llama: Path,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("client_side.records.load_records", Failure(error))
    caplog.set_level(logging.DEBUG)
    request = training_request(tiny_llama, ProxyKind.GENERATOR)

    reply = answer_bytes("generator", encode_bytes(request), folder=client.path)

    assert decode_bytes(reply, Refusal) == Refusal(code=RefusalCode.INTERNAL)
    assert type(error).__name__ in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_answered(
    client: ClientFolder,
    tiny_llama: Path,
    kind: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a node that is told to stop would refuse the request and go on."""
    monkeypatch.setattr("client_side.records.load_records", Failure(kind()))

    with pytest.raises(kind):
        ask(client, tiny_llama, ProxyKind.GENERATOR)


def test_the_flower_handler_answers_a_failure_with_a_message_and_not_an_error(
    client: ClientFolder, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client_side.records.load_records", Failure(ValueError(CANARY)))

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


def test_a_node_that_is_told_neither_folder_nor_number_answers_with_a_code(
    client: ClientFolder, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDERS_VARIABLE, str(client.path.parent))
    monkeypatch.chdir(tmp_path)

    reply = send(None, "train.generator", encode(training_request(tiny_llama, ProxyKind.GENERATOR)))

    assert decode(reply.content, Refusal) == Refusal(code=RefusalCode.INTERNAL)


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
