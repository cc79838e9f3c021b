"""Which clients may connect and release: one introduction each, in a folder of the server's.

A file there lets its node key through the gateway and its signing key through admission, each for
the one client name that stands beside it. Revoking moves the file into `revoked/`: the gateway sees
that at once, and admission takes nothing more from that key than what it had admitted before. A
node key that was revoked is not let in again: Flower's link takes back no key that it unregistered.

Covers: a client that is allowed and speaks under another client's name, by its node or by a release
that it signed itself.
Does not cover: a client that has another one's private keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from protocol.ledger import ProxyKind
from server_side.exchange.folder import ServerFolder

_SUFFIX = ".json"
_REVOKED = "revoked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Register:
    """For whom each key speaks; a key speaks for one client."""

    names: Mapping[bytes, str]
    """Client name by node key, in the form in which Flower stores it."""
    signing_keys: Mapping[str, frozenset[str]]
    """By client name, the keys by which its releases may be signed, as hexadecimal text. Several
    where it released before it was revoked and allowed with another one."""


def allow_client(folder: Path, introduction: Introduction) -> str:
    """Let a client in.

    Args:
        folder: The allow-list.
        introduction: What the client's operator handed over.

    Returns:
        The fingerprint, for its operator to confirm.

    Raises:
        ConfigurationError: Its name or one of its keys belongs to another client already, or its
            node key was revoked.
    """
    for name, other in load_clients(folder).items():
        if other == introduction:
            return fingerprint(introduction)
        is_same_key = (
            node_key_bytes(other) == node_key_bytes(introduction)
            or other.signing_key == introduction.signing_key
        )
        if name == introduction.client_name or is_same_key:
            raise ConfigurationError(
                f"Expected a new client, found {name} with the same name or key. Revoke {name} "
                "first if it has new keys, or ask for another name."
            )
    # The link keeps what it unregistered and refuses it for ever, and with it the whole exchange.
    if node_key_bytes(introduction) in map(node_key_bytes, _read(folder / _REVOKED)):
        raise ConfigurationError(
            f"Expected a new node key for {introduction.client_name}, found one that was revoked. "
            "Ask its operator to run `rewardds-client rotate-key`, and allow the new introduction."
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
    revoked = folder / _REVOKED
    revoked.mkdir(mode=0o700, exist_ok=True)
    # A name can be revoked again and again, and each of its keys may have signed a release.
    number = next(n for n in itertools.count(1) if not (revoked / f"{name}.{n}{_SUFFIX}").exists())
    file.replace(revoked / f"{name}.{number}{_SUFFIX}")


def load_clients(folder: Path) -> Mapping[str, Introduction]:
    """Read the allow-list.

    Args:
        folder: The allow-list; none is there if it does not exist.

    Returns:
        Introduction by client name.

    Raises:
        MalformedMessageError: A file in it is no introduction.
    """
    return {item.client_name: item for item in _read(folder)}


def _read(folder: Path) -> Sequence[Introduction]:
    files = sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else []
    return [read_introduction(Introduction, file) for file in files]


def node_key_bytes(introduction: Introduction) -> bytes:
    """Return a node's key in the form in which Flower sends and stores it."""
    key = load_node_key(introduction.node_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_register(folder: ServerFolder) -> Register | None:
    """Read for whom each key speaks.

    Args:
        folder: The server's folder.

    Returns:
        The register, with the signing keys of revoked clients for what they had released before;
        None where there is no allow-list, as in a simulation.

    Raises:
        MalformedMessageError: A file in the list is no introduction.
    """
    if not folder.clients_folder.is_dir():
        return None
    allowed = load_clients(folder.clients_folder)
    keys = {name: {item.signing_key} for name, item in allowed.items()}
    for item in _read(folder.clients_folder / _REVOKED):
        name = item.client_name
        # By whole names: these may hold dots, and a pattern would find ward.7's release for ward.
        # A second release of the same client and proxy is refused as a replay.
        stored = (folder.path / "releases" / f"{name}.{proxy.value}.release" for proxy in ProxyKind)
        if any(file.is_file() for file in stored):
            keys.setdefault(name, set()).add(item.signing_key)
    return Register(
        names={node_key_bytes(item): name for name, item in allowed.items()},
        signing_keys={name: frozenset(item) for name, item in keys.items()},
    )
