"""Nothing else leaves: all bytes of a real exchange, all logs and all that the server keeps.

A SuperLink and two SuperNodes on loopback without TLS; the nodes reach the link through a relay
that keeps every byte. Each record, and each name around the records, holds a canary. One client
releases both proxies. The other's file is torn, so that it must fail on a record's text. Every
process logs everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest
from flwr.cli.build import build_fab_from_disk

from client_side.config import Unit
from client_side.folder import ClientFolder, make_client_folder, write_private_file
from client_side.records import load_records
from lm.loading import load_tokenizer
from lm.settings import save_settings
from protocol.ledger import ProxyKind
from protocol.messages import ReleaseReply
from protocol.wire import decode_bytes
from server_side.exchange.outcome import read_outcome
from simulations import processes
from simulations.config import RuntimeConfig
from simulations.prepare import World
from tests.support.canaries import disguises, find, unpacked
from tests.support.clients import RUN_ID, client_config, server_config
from tests.support.recording import Connection, Relay

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    # Flower's own build asks for a pattern class by its old name.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]

ROOT: Final = Path(__file__).resolve().parents[2]

TEXTS: Final = {
    "prompt": "vermilion-quetzal-ü7Q",
    "response": "cobalt-pangolin-é4K",
    "group": "ochre-axolotl-ñ9W",
}
"""What stands in every record; may stand nowhere but in the clients' own folders."""

NAMES: Final = {
    "file": "umber-narwhal-3rT",
    "column": "saffron-tapir-8mB",
    "folder": "celadon-okapi-5xL",
}
"""What stands around the records; a client's own log may name them, and nothing of the server's."""

INSTRUCTION: Final = "Answer as a lighthouse keeper would."
"""Public by design: what must be found wherever a certificate went, or the search is blind."""

TORN: Final = 2
"""The client whose last row lacks its end."""

LOG_EVERYTHING: Final = """
import logging
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("planted").debug("every level is logged here")
"""
"""A `sitecustomize` that every process of the exchange runs at its start."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What is left of an exchange."""

    folder: Path
    clients: tuple[ClientFolder, ...]
    connections: tuple[Connection, ...]
    forms: dict[str, dict[str, bytes]]
    """Every form in which a secret could be written, by the secret's name."""

    @property
    def server_folder(self) -> Path:
        return self.folder / "server"

    @property
    def logs(self) -> dict[str, bytes]:
        """Everything that the processes said, by the name of the file."""
        return {file.name: file.read_bytes() for file in (self.folder / "logs").iterdir()}

    def wire(self) -> Iterator[tuple[str, bytes]]:
        """Give all that went over the wire: as it came, by message, and all bodies as one."""
        for number, connection in enumerate(self.connections):
            for way, recording in (("out", connection.sent), ("in", connection.received)):
                yield f"{number} {way}", bytes(recording.raw)
                bodies = [body for _, body in recording.messages()]
                yield f"{number} {way} bodies", b"".join(bodies)
                for index, body in enumerate(bodies):
                    yield from unpacked(f"{number} {way} body {index}", body)

    def sent(self) -> bytes:
        """Give all that clients sent, without what HTTP puts around it."""
        return b"".join(
            body for connection in self.connections for _, body in connection.sent.messages()
        )

    def found(self, places: Iterable[tuple[str, bytes]], secrets: Iterable[str]) -> list[str]:
        """Name each secret that stands somewhere, with its form and the place."""
        return [
            f"{secret} as {form} in {name}"
            for name, data in places
            for secret in secrets
            for form in find(self.forms[secret], data)
        ]


def files_under(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Give the names of all files under some folders, and what is in them, unpacked."""
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            yield f"the name of {file.name}", str(file.relative_to(folder)).encode()
            if file.is_file():
                yield from unpacked(file.name, file.read_bytes())


def make_client(folder: Path, base_model: Path, number: int) -> ClientFolder:
    """Make a client whose records hold canaries, and so do the names around them."""
    name = f"client-{number}"
    start = client_config(base_model, name=name)
    columns = {kind: f"{NAMES['column']} {kind}" for kind in TEXTS}
    file = f"{NAMES['file']}.jsonl"
    config = replace(
        start,
        records=replace(
            start.records,
            path=file,
            prompt_column=columns["prompt"],
            response_column=columns["response"],
            group_column=columns["group"],
            privacy_unit=Unit.GROUP,
            instruction=INSTRUCTION,
            max_prompt_tokens=64,
            max_response_tokens=64,
        ),
    )
    client = make_client_folder(folder / NAMES["folder"] / name, config)
    # Other numbers and lengths for each client, at the same public size.
    rows = [
        {column: f"{TEXTS[kind]} {index} of {name}" + "." * number * index
         for kind, column in columns.items()}
        for index in range(22 + number)
    ]  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if number == TORN:
        lines = lines[:-5]
    write_private_file(client.path / file, lines.encode())
    return client


def secret_forms(client: ClientFolder, base_model: Path) -> dict[str, dict[str, bytes]]:
    """Write down all secrets in all forms, the units' digests of one client among them."""
    tokenizer = load_tokenizer(base_model)
    forms = {
        name: dict(disguises(text, token_ids=tokenizer.encode(text, add_special_tokens=False)))
        for name, text in (TEXTS | NAMES).items()
    }
    config = client.load_config()
    records = load_records(replace(config.records, path=client.records_path(config)))
    for index, record in enumerate(records):
        # Made without a key: whoever has one can test a guess about a person.
        digest = bytes.fromhex(record.unit_id)
        forms[f"unit {index}"] = {"hex": digest.hex().encode(), "raw": digest}
    return forms


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Exchange:
    folder = tmp_path_factory.mktemp("exchange")
    clients = tuple(make_client(folder, tiny_llama, number) for number in (1, 2))
    server = server_config(tiny_llama, min_clients=1)
    (folder / "server").mkdir()
    save_settings(server, folder / "server" / "server_node.yaml")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(LOG_EVERYTHING, encoding="utf-8")
    relays: list[Relay] = []
    command = processes.supernode_command

    def through_relay(client: ClientFolder, *, superlink: str, **others: object) -> list[str]:
        relays.append(Relay(int(superlink.rpartition(":")[2])))
        return command(client, superlink=relays[-1].address, **others)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "supernode_command", through_relay)
        patch.setenv("PYTHONPATH", f"{folder / 'site'}:{ROOT}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("FLWR_LOG_LEVEL", "DEBUG")
        patch.setenv("GRPC_VERBOSITY", "DEBUG")
        patch.setenv("TRANSFORMERS_VERBOSITY", "debug")
        try:
            processes.run_exchange(
                World(
                    clients=clients,
                    num_records=(0,) * len(clients),
                    server_folder=folder / "server",
                    server=server,
                    num_overlapping=0,
                    num_evaluation=0,
                ),
                run_id=RUN_ID,
                runtime=RuntimeConfig(poll_seconds=0.2, deadline_seconds=240),
                on_poll=lambda: None,
            )
        finally:
            for relay in relays:
                relay.close()
    return Exchange(
        folder=folder,
        clients=clients,
        connections=tuple(one for relay in relays for one in relay.connections),
        forms=secret_forms(clients[0], tiny_llama),
    )


def test_one_client_released_both_proxies_and_the_other_said_that_something_failed(
    exchange: Exchange,
) -> None:
    outcome = read_outcome(exchange.server_folder)

    assert outcome is not None
    clients = outcome["clients"]
    assert isinstance(clients, list)
    assert {client["name"]: client["answers"] for client in clients} == {
        "client-1": {"hello": "admitted", "generator": "admitted", "reward": "admitted"},
        "client-2": {"hello": "admitted", "generator": "refused: internal"},
    }


def test_the_search_would_see_what_was_sent(exchange: Exchange) -> None:
    """Nothing on the wire is packed, and what is public is found: certificate, weights, code."""
    sent = exchange.sent()
    for proxy in ProxyKind:
        file = exchange.server_folder / "releases" / f"client-1.{proxy.value}.release"
        release = decode_bytes(file.read_bytes(), ReleaseReply).release
        assert release.weights.to_bytes() in sent
        assert release.certificate.weights_digest.encode() in sent
    received = b"".join(data for name, data in exchange.wire() if " in body " in name)

    assert INSTRUCTION.encode() in sent
    assert b"def train_generator(" in received
    assert b"def train_generator(" not in sent


@pytest.mark.parametrize("secret", [*TEXTS, *NAMES])
def test_nothing_of_a_record_or_its_place_is_on_the_wire(exchange: Exchange, secret: str) -> None:
    assert exchange.found(exchange.wire(), [secret]) == []


def test_no_units_digest_is_on_the_wire_or_with_the_server(exchange: Exchange) -> None:
    units = [secret for secret in exchange.forms if secret.startswith("unit")]

    assert len(units) == 23
    assert exchange.found([("sent", exchange.sent())], units) == []
    assert exchange.found(files_under(exchange.server_folder), units) == []


def test_no_log_at_any_level_quotes_a_record(exchange: Exchange) -> None:
    logs = exchange.logs

    assert set(logs) == {"superlink.log", "client-1.log", "client-2.log"}
    assert all(log.count(b"DEBUG:planted:every level is logged") > 1 for log in logs.values())
    # Not blind: the torn row is told to its operator, by number and without its text.
    assert b"RecordsError" in logs["client-2.log"]
    assert exchange.found(logs.items(), TEXTS) == []


def test_no_log_of_the_server_names_what_is_on_a_clients_disk(exchange: Exchange) -> None:
    """A client's own log may name its files and columns; they are settings."""
    assert exchange.found([("superlink.log", exchange.logs["superlink.log"])], NAMES) == []


def test_no_file_of_the_server_holds_any_of_it(exchange: Exchange) -> None:
    files = dict(files_under(exchange.server_folder))

    assert INSTRUCTION.encode() in files["client-1.generator.release"]
    assert INSTRUCTION.encode() in files["client-1.generator.certificate.json"]
    assert exchange.found(files.items(), [*TEXTS, *NAMES]) == []


def test_the_app_bundle_holds_none_of_it(exchange: Exchange) -> None:
    """As it is built from what was staged, and as it lies installed with each client."""
    bundle = build_fab_from_disk(exchange.server_folder / "app")
    installed = list(files_under(*(client.path / "flower" for client in exchange.clients)))

    members = dict(unpacked("bundle", bundle))
    assert "bundle:client_side/egress.py" in members
    assert sum(name == "the name of egress.py" for name, _ in installed) == len(exchange.clients)
    assert exchange.found([*members.items(), *installed], [*TEXTS, *NAMES]) == []
