"""Gate 3, seen from the wire: what is sent has one shape, whatever the records are like.

How many records there are, how long they are, and why a client had to fail are private. Two clients
of one public setting must send messages that differ in names, keys, digests, signatures and weights
alone, each of a fixed length; and a failure that lies in the records must look like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from client_side.app import answer_bytes
from client_side.config import Unit
from client_side.folder import ClientFolder, make_client_folder
from protocol import PROTOCOL_VERSION
from protocol.artifacts import SECONDS_PER_DAY
from protocol.documents import parse_canonical
from protocol.errors import RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import HelloRequest, Refusal, ReleaseReply
from protocol.wire import decode_bytes, encode_bytes
from tests.support.clients import NUM_RECORDS, client_config, training_request

ACTIONS: Final = ("hello", "generator", "reward")
FRAME_BYTES: Final = len(b"RewardDS\x01\n") + 8
INTERNAL: Final = encode_bytes(Refusal(code=RefusalCode.INTERNAL))

Row = Mapping[str, object]


def rows(number: int, *, words: int = 2, people: int | None = None) -> list[Row]:
    """Give records of some number and length, of some number of people."""
    return [
        {
            "prompt": f"Question {index} " + "pain " * words,
            "response": f"Answer {index} " + "rest " * (index % 5) * words,
            "person": f"person {index % (people or number)}",
        }
        for index in range(number)
    ]


def make_client(
    folder: Path, base_model: Path, data: list[Row] | bytes | None, **records: Any
) -> ClientFolder:
    """Make a client whose records are these rows or bytes; None leaves the file out."""
    config = client_config(base_model, name=folder.name)
    config = replace(config, records=replace(config.records, **records))
    client = make_client_folder(folder, config)
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data).encode()
    if data is not None:
        (folder / config.records.path).write_bytes(data)
    return client


def ask(client: ClientFolder, action: str, base_model: Path) -> bytes:
    if action == "hello":
        request = encode_bytes(HelloRequest(protocol_version=PROTOCOL_VERSION))
    else:
        request = encode_bytes(training_request(base_model, ProxyKind(action)))
    return answer_bytes(action, request, folder=client.path)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two clients sent, by action: client 1 and client 2."""

    sent: Mapping[str, tuple[bytes, bytes]]

    def documents(self, action: str) -> tuple[Any, Any]:
        one, other = (_envelope(data)[0] for data in self.sent[action])
        return one["body"], other["body"]


def _envelope(data: bytes) -> tuple[Any, bytes]:
    """Give a message's document and the bytes behind it."""
    end = FRAME_BYTES + int.from_bytes(data[FRAME_BYTES - 8 : FRAME_BYTES], "big")
    return parse_canonical(data[FRAME_BYTES:end]), data[end:]


def _differences(one: Any, other: Any, path: str = "") -> set[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {name for key in one for name in _differences(one[key], other[key], f"{path}.{key}")}
    return set() if one == other else {path.removeprefix(".")}


@pytest.fixture(
    scope="module",
    params=[
        ({}, rows(22), rows(26, words=40)),
        (
            {"privacy_unit": Unit.GROUP, "group_column": "person", "max_records_per_unit": 3},
            rows(24),
            rows(60, words=9, people=23),
        ),
    ],
    ids=["per record", "per person"],
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path
) -> Pair:
    settings, few_and_short, many_and_long = request.param
    folder = tmp_path_factory.mktemp("clients")
    clients = [
        make_client(folder / f"client-{number}", tiny_llama, data, **settings)
        for number, data in enumerate((few_and_short, many_and_long), start=1)
    ]
    answers = [[ask(client, action, tiny_llama) for action in ACTIONS] for client in clients]
    return Pair(sent=dict(zip(ACTIONS, zip(*answers, strict=True), strict=True)))


@pytest.mark.parametrize("action", ACTIONS)
def test_messages_have_the_same_length_whatever_the_records(pair: Pair, action: str) -> None:
    one, other = pair.sent[action]

    assert one != other
    assert len(one) == len(other)


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_certificates_differ_in_names_and_digests_alone(pair: Pair, proxy: ProxyKind) -> None:
    one, other = pair.documents(proxy.value)
    days = {document["certificate"].pop("created_at") for document in (one, other)}

    assert _differences(one, other) == {
        "certificate.client_name",
        "certificate.weights_digest",
        "public_key",
        "signature",
    }
    # Two days where midnight comes between; never a time.
    assert all(day % SECONDS_PER_DAY == 0 for day in days)


def test_hellos_differ_in_names_and_keys_alone(pair: Pair) -> None:
    assert _differences(*pair.documents("hello")) == {"client_name", "public_key"}


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_weights_differ_in_values_alone(pair: Pair, proxy: ProxyKind) -> None:
    headers = []
    for data in pair.sent[proxy.value]:
        weights = _envelope(data)[1]
        headers.append(weights[: 8 + int.from_bytes(weights[:8], "little")])

    assert headers[0] == headers[1]


UNUSABLE: Final[dict[str, tuple[list[Row] | bytes | None, dict[str, Any]]]] = {
    "no file": (None, {}),
    "an empty file": (b"", {}),
    "bytes that are not UTF-8": (b"\xff\xfe\x00{", {}),
    "a torn row": (json.dumps(rows(1)[0]).encode()[:-4], {}),
    "a row that is no object": ([*rows(23), [1, 2]], {}),  # type: ignore[list-item]
    "a row of another type": ([*rows(23), {"prompt": 7, "response": {"a": 1}}], {}),
    "rows without the column": (rows(24), {"prompt_column": "question"}),
    "rows without any text": ([{"prompt": "", "response": ""}] * 24, {}),
    "one record too long": (rows(24, words=30), {"max_record_chars": 100}),
    "too few records": (rows(NUM_RECORDS - 5), {}),
    "too many records": (rows(NUM_RECORDS + 5), {}),
    "copies of one record": (rows(1) * NUM_RECORDS, {}),
    "too few people": (
        rows(24, people=3),
        {"privacy_unit": Unit.GROUP, "group_column": "person"},
    ),
    "a record without its person": (
        [*rows(23), {"prompt": "a", "response": "b", "person": None}],
        {"privacy_unit": Unit.GROUP, "group_column": "person"},
    ),
    "no table at all": (b"PAR1 and nothing else", {"path": "records.parquet"}),
    "a CSV that is none": (b'prompt,response\n"open', {"path": "records.csv"}),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_records_that_cannot_be_used_look_like_any_other_failure(
    tmp_path: Path, tiny_llama: Path, case: str
) -> None:
    data, settings = UNUSABLE[case]
    client = make_client(tmp_path / "client-1", tiny_llama, data, **settings)

    assert ask(client, "generator", tiny_llama) == INTERNAL
    # Its operator is told what it was; a refusal for another reason would prove nothing here.
    assert json.loads(client.status_file.read_text())["reason"].startswith("RecordsError")


def append_a_row(path: Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"prompt": "one more", "response": "of them"}) + "\n")


CHANGES: Final[dict[str, Callable[[Path], object]]] = {
    "removed": lambda path: path.unlink(),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "one row less": lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
    "one row more": append_a_row,
    "other rows": lambda path: path.write_bytes(path.read_bytes().replace(b"Answer", b"Reply")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_records_that_changed_between_two_requests_look_like_any_other_failure(
    tmp_path: Path, tiny_llama: Path, change: str
) -> None:
    """Any other code would tell whether a record came or went."""
    client = make_client(tmp_path / "client-1", tiny_llama, rows(NUM_RECORDS))
    first = ask(client, "generator", tiny_llama)
    assert isinstance(decode_bytes(first, ReleaseReply), ReleaseReply)

    CHANGES[change](client.path / "records.jsonl")

    assert ask(client, "reward", tiny_llama) == INTERNAL
