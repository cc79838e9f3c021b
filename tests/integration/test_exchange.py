"""The exchange with real clients on tiny models: what one client does never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from client_side.app import answer_bytes
from protocol.errors import ExchangeError, RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal
from protocol.wire import encode_bytes
from server_side.admission import AdmittedRelease
from server_side.app import BytesChannel, Endpoint
from server_side.exchange.collecting import RELEASES, Waiting, collect, load_collected
from server_side.exchange.outcome import RunLostError, clients_without_releases, read_outcome
from tests.support.clients import CANARY, RUN_ID, client_config, make_client, server_config

pytestmark = pytest.mark.integration


class Exchange:
    """Two clients and a server in one process, with all that was sent kept."""

    def __init__(self, folder: Path, base_model: Path) -> None:
        self.folder = folder / "server"
        self.folder.mkdir()
        self.base_model = base_model
        self.sent: list[bytes] = []
        self.asked: list[tuple[str, str]] = []
        self.clients: dict[int, Endpoint] = {}
        for number in (1, 2):
            name = f"client-{number}"
            client = make_client(folder / name, client_config(base_model, name=name))
            self.clients[number] = self.recorded(name, partial(answer_bytes, folder=client.path))

    def recorded(self, name: str, endpoint: Callable[[str, bytes], bytes]) -> Endpoint:
        def answer(action: str, data: bytes) -> bytes:
            self.asked.append((name, action))
            self.sent.append(endpoint(action, data))
            return self.sent[-1]

        return answer

    def run(
        self, *, min_clients: int = 1, channel: BytesChannel | None = None
    ) -> tuple[AdmittedRelease, ...]:
        return collect(
            channel or BytesChannel(self.clients),
            config=server_config(self.base_model, min_clients=min_clients),
            run_id=RUN_ID,
            run_folder=self.folder,
            waiting=Waiting(wait_seconds=0.1, poll_seconds=0.01),
        )

    def answers(self) -> list[Mapping[str, str]]:
        outcome = read_outcome(self.folder)
        assert outcome is not None
        clients = outcome["clients"]
        assert isinstance(clients, list)
        return [client["answers"] for client in clients]


@pytest.fixture
def exchange(tmp_path: Path, tiny_llama: Path) -> Exchange:
    return Exchange(tmp_path, tiny_llama)


def test_both_proxies_of_both_clients_are_admitted_and_stored(exchange: Exchange) -> None:
    admitted = exchange.run(min_clients=2)

    assert len(admitted) == 4
    stored = load_collected(
        server_config(exchange.base_model), run_id=RUN_ID, run_folder=exchange.folder
    )
    assert {(item.client_name, item.proxy) for item in stored} == {
        (f"client-{number}", proxy) for number in (1, 2) for proxy in ProxyKind
    }
    assert all(0 < item.epsilon <= 8 for item in admitted)


def test_nothing_that_is_sent_holds_a_record(exchange: Exchange) -> None:
    exchange.run()

    assert exchange.sent
    assert not [data for data in exchange.sent if CANARY.encode() in data]


def test_a_second_exchange_of_the_run_asks_for_no_training(exchange: Exchange) -> None:
    exchange.run()
    exchange.asked.clear()

    admitted = exchange.run(min_clients=2)

    assert len(admitted) == 4
    assert {action for _, action in exchange.asked} == {"hello"}


@pytest.mark.parametrize("action", ["hello", "generator", "reward"])
def test_a_client_that_refuses_leaves_the_rest_going(exchange: Exchange, action: str) -> None:
    own = exchange.clients[1]
    refusal = encode_bytes(Refusal(code=RefusalCode.POLICY))
    exchange.clients[1] = lambda asked, data: refusal if asked == action else own(asked, data)

    exchange.run(min_clients=1)

    first, second = exchange.answers()
    assert first[action] == "refused: policy"
    assert second["reward"] == "admitted"


@pytest.mark.parametrize("reply", [b"", b"rubbish", encode_bytes(Refusal(code=RefusalCode.BUSY))])
def test_an_answer_of_any_form_leaves_the_rest_going(exchange: Exchange, reply: bytes) -> None:
    own = exchange.clients[1]
    exchange.clients[1] = lambda asked, data: reply if asked == "generator" else own(asked, data)

    exchange.run(min_clients=1)

    assert exchange.answers()[0]["generator"] != "admitted"
    assert exchange.answers()[1]["reward"] == "admitted"


def test_an_answer_that_is_not_admitted_is_kept_with_its_reason(exchange: Exchange) -> None:
    own = exchange.clients[1]
    exchange.clients[1] = lambda asked, data: b"rubbish" if asked == "reward" else own(asked, data)

    exchange.run(min_clients=1)

    assert list((exchange.folder / RELEASES / "refused").glob("*malformed.json"))


def test_too_few_clients_is_a_failure_that_names_each_reason(exchange: Exchange) -> None:
    refusal = encode_bytes(Refusal(code=RefusalCode.BUDGET_EXCEEDED))
    own = exchange.clients[1]
    exchange.clients[1] = lambda asked, data: refusal if asked == "reward" else own(asked, data)

    with pytest.raises(ExchangeError, match=r"client-1 .*refused: budget_exceeded"):
        exchange.run(min_clients=2)

    outcome = read_outcome(exchange.folder)
    assert outcome is not None
    assert "budget_exceeded" in str(outcome["error"])
    (refused,) = clients_without_releases(exchange.folder)
    assert refused.told.endswith("reward refused: budget_exceeded")


def test_clients_that_never_come_are_a_failure(exchange: Exchange) -> None:
    with pytest.raises(ExchangeError, match="found 0"):
        exchange.run(channel=BytesChannel({}))


def test_a_silent_client_leaves_the_rest_going(exchange: Exchange) -> None:
    class Lossy(BytesChannel):
        def ask(  # type: ignore[no-untyped-def]  # same as the parent's
            self, action, requests, *, timeout_seconds
        ):
            kept = {number: request for number, request in requests.items() if number != 1}
            return super().ask(action, kept, timeout_seconds=timeout_seconds)

    exchange.run(channel=Lossy(exchange.clients))

    assert exchange.answers()[0] == {"hello": "no answer"}


def test_a_lost_link_is_no_outcome_and_the_next_try_pays_nothing_twice(exchange: Exchange) -> None:
    class Broken(BytesChannel):
        def ask(  # type: ignore[no-untyped-def]  # same as the parent's
            self, action, requests, *, timeout_seconds
        ):
            answers = super().ask(action, requests, timeout_seconds=timeout_seconds)
            if action == "reward":
                raise RunLostError("Expected the link, got none. Wait.")
            return answers

    with pytest.raises(RunLostError):
        exchange.run(channel=Broken(exchange.clients))
    assert read_outcome(exchange.folder) is None

    exchange.run()

    assert exchange.answers() == 2 * [
        {"hello": "admitted", "generator": "admitted", "reward": "admitted"}
    ]
    assert [action for name, action in exchange.asked if name == "client-1"] == [
        "hello", "generator", "reward", "hello", "reward",
    ]  # fmt: skip


def test_two_nodes_of_one_name_count_once(exchange: Exchange) -> None:
    exchange.clients[3] = exchange.clients[1]

    admitted = exchange.run()

    assert len(admitted) == 4
    assert exchange.answers()[2] == {"hello": "not admitted: client"}


def test_another_base_model_is_found_out_before_training(
    exchange: Exchange, tmp_path: Path, tiny_qwen2: Path
) -> None:
    config = client_config(tiny_qwen2, name="client-3")
    client = make_client(tmp_path / "client-3", replace(config, name="client-3"))
    exchange.clients[3] = exchange.recorded("client-3", partial(answer_bytes, folder=client.path))

    exchange.run()

    assert [action for name, action in exchange.asked if name == "client-3"] == ["hello"]
