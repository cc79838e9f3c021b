"""`rewardds-server`: folder, certificates, and who is let in."""

from __future__ import annotations

import errno
import logging
import os
import ssl
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lm.errors import DiskError
from lm.settings import save_settings
from protocol.errors import ConfigurationError, ExchangeError
from protocol.introductions import Introduction, write_introduction
from server_side.config import (
    ServerConfig,
)
from server_side.exchange.certificates import (
    TlsFiles,
    check_certificate,
    make_authority,
    make_server_certificate,
)
from server_side.exchange.clients import (
    allow_client,
    load_clients,
    read_register,
    revoke_client,
)
from server_side.exchange.folder import ServerFolder
from server_side.exchange.network import NetworkConfig, is_host
from server_side.exchange.outcome import ClientOutcome, write_outcome
from server_side.exchange.serving import collect_from_clients
from server_side.exchange.submitting import Link, wait_for_outcome
from server_side.node import main


def introduction(name: str, signing_key: str = "a" * 64) -> Introduction:
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return Introduction(client_name=name, node_key=line, signing_key=signing_key)


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    main(["init", str(tmp_path / "server"), "--host", "server.test"])
    return ServerFolder(path=tmp_path / "server")


def test_init_makes_a_folder_for_its_owner_and_refuses_to_overwrite(folder: ServerFolder) -> None:
    before = (folder.tls_folder / "authority.pem").read_bytes()

    with pytest.raises(SystemExit, match="Expected a new folder"):
        main(["init", str(folder.path), "--host", "server.test"])
    assert (folder.tls_folder / "authority.pem").read_bytes() == before
    assert folder.path.stat().st_mode & 0o077 == 0
    keys = list(folder.tls_folder.glob("*.key"))
    assert len(keys) == 2
    assert not [key.name for key in keys if key.stat().st_mode & 0o077]


def test_init_that_finds_no_room_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr("server_side.node.make_server_certificate", full)

    with pytest.raises(SystemExit, match="No space left"):
        main(["init", str(tmp_path / "server"), "--host", "server.test"])

    assert not (tmp_path / "server").exists()


def test_an_empty_name_of_the_run_is_made_anew_and_another_stays(folder: ServerFolder) -> None:
    """A full disk or a kill may have left it; nothing is bound to it."""
    (folder.path / "run_id").touch()

    first = folder.run_id()

    assert first.startswith("server-")
    assert folder.run_id() == first == (folder.path / "run_id").read_text()


def test_a_name_of_the_run_that_cannot_be_kept_leaves_nothing(
    folder: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskError):
        folder.run_id()

    assert not list(folder.path.glob("*run_id*"))


def test_settings_explain_each_key(folder: ServerFolder) -> None:
    assert "# Largest composed ε of a client" in folder.settings_file.read_text(encoding="utf-8")
    assert "# Port that clients reach" in folder.network_file.read_text(encoding="utf-8")
    assert folder.load_config() == ServerConfig()
    assert folder.load_network().host == "server.test"


def test_the_certificate_is_for_the_host_and_for_loopback(folder: ServerFolder) -> None:
    files = TlsFiles.within(folder.tls_folder)
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert {str(item.value) for item in names} == {"server.test", "localhost", "127.0.0.1"}
    check_certificate(files, host="server.test")
    ssl.create_default_context(cafile=str(files.authority))


@pytest.mark.parametrize("host", ["10.0.0.7", "2001:DB8::1", "2001:db8:0:0::1"])
def test_an_address_can_be_the_host_however_it_is_written(tmp_path: Path, host: str) -> None:
    make_authority(tmp_path, name=host)
    make_server_certificate(tmp_path, host=host)

    check_certificate(TlsFiles.within(tmp_path), host=host)


def test_a_certificate_beside_another_key_is_refused(folder: ServerFolder) -> None:
    """A renewal writes the key first, and may be killed before the certificate."""
    files = TlsFiles.within(folder.tls_folder)
    before = files.certificate.read_bytes()
    main(["renew", str(folder.path)])
    files.certificate.write_bytes(before)

    with pytest.raises(
        ConfigurationError, match=r"not that of server\.key .*rewardds-server renew"
    ):
        check_certificate(files, host="server.test")


def test_a_certificate_for_another_host_or_authority_is_refused(
    folder: ServerFolder, tmp_path: Path
) -> None:
    files = TlsFiles.within(folder.tls_folder)
    make_authority(tmp_path, name="another")

    with pytest.raises(ConfigurationError, match=r"one for 127\.0\.0\.1, localhost, server\.test"):
        check_certificate(files, host="elsewhere.test")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        check_certificate(replace(files, authority=tmp_path / "authority.pem"), host="server.test")


def test_renewing_follows_the_host_and_keeps_the_authority(folder: ServerFolder) -> None:
    authority = (folder.tls_folder / "authority.pem").read_bytes()
    save_settings(replace(folder.load_network(), host="moved.test"), folder.network_file)

    main(["renew", str(folder.path)])

    assert (folder.tls_folder / "authority.pem").read_bytes() == authority
    check_certificate(TlsFiles.within(folder.tls_folder), host="moved.test")


def test_renewing_wants_the_authoritys_key(folder: ServerFolder) -> None:
    (folder.tls_folder / "authority.key").unlink()

    with pytest.raises(SystemExit, match=r"Bring authority\.key back"):
        main(["renew", str(folder.path)])


def test_a_client_is_let_in_once_and_shut_out(folder: ServerFolder, tmp_path: Path) -> None:
    write_introduction(introduction("ward"), tmp_path / "introduction.json")

    main(["allow-client", str(folder.path), str(tmp_path / "introduction.json")])
    main(["allow-client", str(folder.path), str(tmp_path / "introduction.json")])

    assert set(load_clients(folder.clients_folder)) == {"ward"}
    main(["revoke-client", str(folder.path), "ward"])
    assert not load_clients(folder.clients_folder)
    with pytest.raises(SystemExit, match="allowed are: none"):
        main(["revoke-client", str(folder.path), "ward"])


def test_nobody_takes_anothers_name_or_key(folder: ServerFolder) -> None:
    first = introduction("ward")
    allow_client(folder.clients_folder, first)

    for other in (
        introduction("ward", "b" * 64),
        replace(introduction("thief", "b" * 64), node_key=first.node_key + " comment"),
        introduction("thief"),
    ):
        with pytest.raises(ConfigurationError, match="Expected a new client"):
            allow_client(folder.clients_folder, other)
    assert load_clients(folder.clients_folder) == {"ward": first}


@pytest.mark.parametrize("name", ["../server_node", "a/b", ""])
def test_a_name_cannot_leave_the_list(folder: ServerFolder, name: str) -> None:
    """Each of these names a file that is there, and that would be moved away."""
    meant = folder.clients_folder / f"{name}.json"
    meant.parent.mkdir(parents=True, exist_ok=True)
    meant.touch()

    with pytest.raises(ConfigurationError, match="client_name"):
        revoke_client(folder.clients_folder, name)

    assert meant.is_file()


def test_a_key_signs_for_its_own_client_alone(folder: ServerFolder) -> None:
    allow_client(folder.clients_folder, introduction("ward", "a" * 64))
    allow_client(folder.clients_folder, introduction("clinic", "b" * 64))
    revoke_client(folder.clients_folder, "clinic")

    register = read_register(folder)

    assert register is not None
    assert register.signing_keys == {"ward": {"a" * 64}}
    assert list(register.names.values()) == ["ward"]


def test_what_was_admitted_before_a_revocation_stays_admitted(folder: ServerFolder) -> None:
    """Its node is out all the same, and a new key may sign for the same name beside the old one."""
    allow_client(folder.clients_folder, introduction("ward", "a" * 64))
    revoke_client(folder.clients_folder, "ward")
    (folder.path / "releases").mkdir()
    (folder.path / "releases" / "ward.generator.release").touch()

    revoked = read_register(folder)
    allow_client(folder.clients_folder, introduction("ward", "c" * 64))
    renewed = read_register(folder)

    assert revoked is not None
    assert renewed is not None
    assert (revoked.signing_keys, dict(revoked.names)) == ({"ward": {"a" * 64}}, {})
    assert renewed.signing_keys == {"ward": {"a" * 64, "c" * 64}}
    assert list(renewed.names.values()) == ["ward"]


@pytest.mark.parametrize("other", ["ward.7.generator", "ward.generator.reward", "ward.notes"])
def test_a_release_of_another_client_is_no_reason_to_keep_a_revoked_key(
    folder: ServerFolder, other: str
) -> None:
    """Names may hold dots, so that one may begin with another."""
    allow_client(folder.clients_folder, introduction("ward", "a" * 64))
    revoke_client(folder.clients_folder, "ward")
    (folder.path / "releases").mkdir()
    (folder.path / "releases" / f"{other}.release").touch()

    register = read_register(folder)

    assert register is not None
    assert register.signing_keys == {}


def test_each_key_that_was_revoked_keeps_what_it_had_released(folder: ServerFolder) -> None:
    """The same client can be revoked twice in a run, with another signing key each time."""
    (folder.path / "releases").mkdir()
    (folder.path / "releases" / "ward.generator.release").touch()

    for letter in "abc":
        allow_client(folder.clients_folder, introduction("ward", letter * 64))
        if letter != "c":
            revoke_client(folder.clients_folder, "ward")
    register = read_register(folder)

    assert register is not None
    assert register.signing_keys == {"ward": {letter * 64 for letter in "abc"}}


def test_a_node_key_that_was_revoked_is_not_let_in_again(folder: ServerFolder) -> None:
    """The link would refuse to register it, and with that every other client of the run."""
    first = introduction("ward")
    allow_client(folder.clients_folder, first)
    revoke_client(folder.clients_folder, "ward")

    with pytest.raises(ConfigurationError, match="rotate-key"):
        allow_client(folder.clients_folder, replace(first, node_key=first.node_key + " comment"))
    allow_client(folder.clients_folder, introduction("ward"))

    assert list(load_clients(folder.clients_folder)) == ["ward"]


def test_an_exchange_that_is_over_names_who_is_missing_and_how_to_ask_them(
    folder: ServerFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """With enough others it counts as over, and the same command would never ask them again."""
    whole = {"hello": "admitted", "generator": "admitted", "reward": "admitted"}
    for name, letter in (("ward", "a"), ("slow", "b"), ("away", "c")):
        allow_client(folder.clients_folder, introduction(name, letter * 64))
    outcomes = (
        ClientOutcome(name="ward", answers=whole),
        ClientOutcome(name="slow", answers=whole | {"reward": "no answer"}),
    )
    write_outcome(folder.path, run_id="run", error=None, outcomes=outcomes)

    with caplog.at_level(logging.INFO):
        collect_from_clients(folder)

    assert "is over already" in caplog.text
    assert "reward no answer" in caplog.text
    assert "away (was not there)" in caplog.text
    assert "delete exchange.json" in caplog.text
    assert "ward (" not in caplog.text


def test_last_words_of_an_earlier_try_are_not_the_outcome_of_this_one(
    folder: ServerFolder,
) -> None:
    link = Link(run_folder=folder.path, host="127.0.0.1", port=1, flower_home=folder.flower_home)
    failed = ExchangeError("Expected more, found less. Try again.")
    write_outcome(folder.path, run_id="run", error=failed, outcomes=(), flower_run="1")
    looks: list[int] = []

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            write_outcome(folder.path, run_id="run", error=None, outcomes=(), flower_run="2")

    outcome = wait_for_outcome(link, "2", seconds=5.0, poll_seconds=0.01, check=look)

    assert outcome["error"] is None
    assert len(looks) == 3


def test_a_simulation_has_no_register(tmp_path: Path) -> None:
    assert read_register(ServerFolder(path=tmp_path)) is None


@pytest.mark.parametrize(
    "changes",
    [{"port": 0}, {"port": 70_000}, {"local_port": 9443}, {"host": "a b"}, {"wait_seconds": 0.0}],
)
def test_network_settings_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        replace(NetworkConfig(), **changes)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("a.example", True), ("10.0.0.1", True), ("::1", True), ("", False), ("a..b", False),
     ("a/b", False), ("ü.example", False)],
)  # fmt: skip
def test_hosts(text: str, is_one: bool) -> None:
    assert is_host(text) is is_one
