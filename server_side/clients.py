"""Which clients may connect and release: one introduction each, in a folder of the server's.

A file there lets its node key through the gateway and its signing key through admission. Revoking
moves the file into `revoked/`: the gateway sees that at once, and admission takes nothing more from
that key than what it had admitted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.checks import check_name
from protocol.errors import ConfigurationError
from protocol.introductions import (
    Introduction,
    fingerprint,
    load_node_key,
    read_introduction,
    write_introduction,
)
from server_side.config import ServerConfig
from server_side.network import ServerFolder

_SUFFIX = ".json"
_REVOKED = "revoked"


def allow_client(folder: Path, introduction: Introduction) -> str:
    """Let a client in.

    Args:
        folder: The allow-list.
        introduction: What the client's operator handed over.

    Returns:
        The fingerprint, for its operator to confirm.

    Raises:
        ConfigurationError: Its name or one of its keys belongs to another client already.
    """
    for name, other in load_clients(folder).items():
        if other == introduction:
            return fingerprint(introduction)
        is_same_key = (
            other.node_key.split()[:2] == introduction.node_key.split()[:2]
            or other.signing_key == introduction.signing_key
        )
        if name == introduction.client_name or is_same_key:
            raise ConfigurationError(
                f"Expected a new client, found {name} with the same name or key. Revoke {name} "
                "first if it has new keys, or ask for another name."
            )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return write_introduction(introduction, folder / f"{introduction.client_name}{_SUFFIX}")


def revoke_client(folder: Path, name: str) -> None:
    """Shut a client out; what it released before stays admitted.

    Args:
        folder: The allow-list.
        name: The client's name.

    Raises:
        ConfigurationError: There is no such client.
    """
    check_name(client_name=name)
    file = folder / f"{name}{_SUFFIX}"
    if not file.is_file():
        known = ", ".join(sorted(load_clients(folder))) or "none"
        raise ConfigurationError(
            f"Expected the name of an allowed client, got {name}; allowed are: {known}. Check the "
            "spelling."
        )
    (folder / _REVOKED).mkdir(mode=0o700, exist_ok=True)
    file.replace(folder / _REVOKED / file.name)


def load_clients(folder: Path) -> Mapping[str, Introduction]:
    """Read the allow-list.

    Args:
        folder: The allow-list; none is there if it does not exist.

    Returns:
        Introduction by client name.

    Raises:
        MalformedMessageError: A file in it is no introduction.
    """
    files = sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []
    read = [read_introduction(Introduction, file) for file in files]
    return {item.client_name: item for item in read}


def node_key_bytes(introduction: Introduction) -> bytes:
    """Return a node's key in the form in which Flower sends and stores it."""
    key = load_node_key(introduction.node_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_allowed_keys(config: ServerConfig, folder: ServerFolder) -> ServerConfig:
    """Narrow admission to the signing keys of allowed clients.

    Args:
        config: The server's settings.
        folder: The server's folder; where it has no allow-list, as in a simulation, nothing
            changes.

    Returns:
        Settings whose `admission.allowed_public_keys` lets through what both lists allow, and
        what a client had released before it was revoked.
    """
    if not folder.clients_folder.is_dir():
        return config
    known = {item.signing_key for item in load_clients(folder.clients_folder).values()}
    for name, item in load_clients(folder.clients_folder / _REVOKED).items():
        # A second release of the same client and proxy is refused as a replay.
        if any((folder.path / "releases").glob(f"{name}.*.release")):
            known.add(item.signing_key)
    listed = config.admission.allowed_public_keys
    keys = known if listed is None else known & set(listed)
    return replace(config, admission=replace(config.admission, allowed_public_keys=sorted(keys)))
