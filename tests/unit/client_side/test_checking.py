"""`rewardds-client check`: each thing that would go wrong later is named now."""

from __future__ import annotations

import http.server
import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from client_side import checking
from client_side.budget import BudgetLedger
from client_side.checking import Finding, Verdict, check_client
from client_side.folder import ClientFolder
from client_side.network import NodeFiles, join, make_node_files
from client_side.node import main
from lm.model_folders import base_model_digest
from lm.settings import save_settings
from protocol.ledger import PrivacyUnit
from server_side.exchange.certificates import make_authority, make_server_certificate
from tests.support.budgets import hand_out, reserve, reserve_and_start
from tests.support.clients import CANARY, client_config, make_client
from tests.support.parties import invitation


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: Path) -> ClientFolder:
    made = make_client(tmp_path / "node", client_config(tiny_llama))
    make_node_files(made)
    join(made, replace(invitation(), base_model_digest=base_model_digest(tiny_llama)))
    return made


def found(folder: ClientFolder, *, offline: bool = True) -> dict[str, Finding]:
    return {item.name: item for item in check_client(folder, offline=offline)}


def test_a_good_folder_passes_and_sends_nothing(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_visit", lambda *_: pytest.fail("the server was visited"))

    verdicts = {name: item.verdict for name, item in found(folder).items()}

    assert verdicts.pop("server") is Verdict.SKIPPED
    assert set(verdicts.values()) == {Verdict.OK}


def test_no_finding_quotes_a_record(folder: ClientFolder) -> None:
    assert CANARY not in "".join(item.text for item in found(folder).values())


def loosen(folder: ClientFolder) -> None:
    (folder.path / "records.jsonl").chmod(0o644)


def tear_records(folder: ClientFolder) -> None:
    (folder.path / "records.jsonl").write_text(f'{{"prompt": "{CANARY}', encoding="utf-8")


def drop_records(folder: ClientFolder) -> None:
    lines = (folder.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    (folder.path / "records.jsonl").write_text("\n".join(lines[:12]), encoding="utf-8")


def change_base(folder: ClientFolder) -> None:
    files = NodeFiles(folder=folder)
    files.save(replace(files.load(), server_base_model_digest="0" * 64))


def drop_key(folder: ClientFolder) -> None:
    NodeFiles(folder=folder).node_key.unlink()


def drop_signing_key(folder: ClientFolder) -> None:
    (folder.path / "signing_key").unlink()


def change_pin(folder: ClientFolder) -> None:
    files = NodeFiles(folder=folder)
    files.save(replace(files.load(), bundle_sha256="0" * 64))


def drop_authority(folder: ClientFolder) -> None:
    NodeFiles(folder=folder).authority.unlink()


def fix_seed(folder: ClientFolder) -> None:
    config = folder.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, noise_seed=1)), folder.settings_file
    )


def rename(folder: ClientFolder) -> None:
    save_settings(replace(folder.load_config(), name="other"), folder.settings_file)


def spoil_base(folder: ClientFolder) -> None:
    """Take from the base model what only the estimate of memory asks for."""
    base = folder.path / "base"
    shutil.copytree(folder.load_config().base_model, base)
    shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
    del shape["num_hidden_layers"]
    (base / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    save_settings(replace(folder.load_config(), base_model=str(base)), folder.settings_file)


def tamper_ledger(folder: ClientFolder) -> None:
    (folder.ledger_folder / "ledger.jsonl").write_text("{}\n", encoding="utf-8")
    (folder.ledger_folder / "key").write_bytes(b"k" * 32)


def lose_ledger(folder: ClientFolder) -> None:
    ledger = BudgetLedger(folder.ledger_folder)
    hand_out(ledger, reserve_and_start(ledger), data=b"a release")
    (folder.ledger_folder / "ledger.jsonl").unlink()


def count_persons(folder: ClientFolder) -> None:
    reserve(BudgetLedger(folder.ledger_folder), unit=PrivacyUnit.GROUP)


def simulate_here(folder: ClientFolder) -> None:
    reserve(BudgetLedger(folder.ledger_folder), reproducible_noise=True)


@pytest.mark.parametrize(("target_epsilon", "verdict"), [(7.9, Verdict.WARNING), (0.5, Verdict.OK)])
def test_whether_the_cap_leaves_room_is_told_for_the_present_settings(
    folder: ClientFolder, target_epsilon: float, verdict: Verdict
) -> None:
    """Lowering the target is how a further run is made to fit."""
    reserve(BudgetLedger(folder.ledger_folder))
    config = folder.load_config()
    budget = replace(config.budget, target_epsilon=target_epsilon)
    save_settings(replace(config, budget=budget), folder.settings_file)

    finding = found(folder)["budget"]

    assert finding.verdict is verdict
    assert ("be refused" in finding.text) == (verdict is Verdict.WARNING)


@pytest.mark.parametrize(
    ("spoil", "name", "said"),
    [
        (loosen, "permissions", "chmod go="),
        (tear_records, "records", "Expected"),
        (drop_records, "records", "declared_size"),
        (change_base, "base model", "Agree on one base model"),
        (drop_key, "keys", "rotate-key"),
        (drop_signing_key, "keys", "backup"),
        (rename, "keys", "rotate-key"),
        (spoil_base, "memory", "KeyError"),
        (change_pin, "app bundle", "Join again"),
        (drop_authority, "certificate", "rewardds-client join"),
        (fix_seed, "settings", "noise_seed"),
        (tamper_ledger, "budget", "Expected"),
        (lose_ledger, "budget", "Restore it from the newest backup"),
        (simulate_here, "budget", "a folder of its own"),
        (count_persons, "budget", "Expected privacy_unit=group"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    folder: ClientFolder, spoil: Callable[[ClientFolder], None], name: str, said: str
) -> None:
    spoil(folder)

    findings = found(folder)

    assert findings[name].verdict is Verdict.FAILED
    assert said in findings[name].text
    assert CANARY not in "".join(item.text for item in findings.values())


def test_a_missing_introduction_is_named(folder: ClientFolder) -> None:
    NodeFiles(folder=folder).introduction.unlink()

    keys = found(folder)["keys"]

    assert keys.verdict is Verdict.WARNING
    assert keys.text.startswith("Expected introduction.json, found none.")


@pytest.mark.parametrize("name", ["disk", "memory"])
def test_what_does_not_fit_is_named(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Small:
        available = free = 1024

    monkeypatch.setattr(psutil, "virtual_memory", Small)
    monkeypatch.setattr(checking.shutil, "disk_usage", lambda _: Small)

    assert found(folder)[name].verdict is Verdict.FAILED


def test_a_failed_check_is_a_failed_command(
    folder: ClientFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    drop_key(folder)

    with pytest.raises(SystemExit, match="trouble with: keys"):
        main(["check", str(folder.path), "--offline", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in listed if item["verdict"] == "failed"] == ["keys"]


class Door(http.server.BaseHTTPRequestHandler):
    """A server whose door is closed or not, and whose clock is right or not."""

    status = 404
    date: str | None = None

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(folder: ClientFolder, tmp_path: Path) -> Iterator[type[Door]]:
    class Own(Door):
        pass

    make_authority(tmp_path, name="test")
    make_server_certificate(tmp_path, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        files = NodeFiles(folder=folder)
        files.save(replace(files.load(), server=f"127.0.0.1:{made.server_address[1]}"))
        files.authority.write_bytes((tmp_path / "authority.pem").read_bytes())
        yield Own
        made.shutdown()
        thread.join()


def test_a_server_behind_its_gateway_passes(folder: ClientFolder, server: type[Door]) -> None:
    finding = found(folder, offline=False)["server"]

    assert finding.verdict is Verdict.OK
    assert "clocks agree" in finding.text


def test_a_server_that_exposes_its_control_paths_is_named(
    folder: ClientFolder, server: type[Door]
) -> None:
    server.status = 405

    finding = found(folder, offline=False)["server"]

    assert finding.verdict is Verdict.WARNING
    assert "put the gateway in front" in finding.text


def test_a_clock_that_is_off_is_named(folder: ClientFolder, server: type[Door]) -> None:
    server.date = "Mon, 01 Jan 2024 00:00:00 GMT"

    finding = found(folder, offline=False)["server"]

    assert finding.verdict is Verdict.FAILED
    assert "Synchronise the clock" in finding.text


def test_a_server_of_another_authority_is_named(folder: ClientFolder, server: type[Door]) -> None:
    NodeFiles(folder=folder).authority.write_text(invitation().authority, encoding="ascii")

    finding = found(folder, offline=False)["server"]

    assert finding.verdict is Verdict.FAILED
    assert "do not trust" in finding.text
