"""How a client's node finds its server and proves itself: settings, keys, and what it trusts.

```
network.yaml             server's address, pinned app bundle, own port, logs
server_authority.pem     certificate by which the server is known; no other is accepted
node_key, node_key.pub   by which the server knows this node (P-384, OpenSSH form)
introduction.json        what the server's operator needs: name and public keys
```
The server's address and authority come from its invitation. The app bundle never does: what is
pinned is the digest of the bundle that this installation's own sources give, and an invitation that
names another one is refused.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client_side.egress import load_signing_key
from client_side.folder import ClientFolder, private_file, write_private_file
from lm.commented_settings import save_commented_settings
from lm.logs import LogFormat, LogLevel
from lm.settings import load_settings
from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.bundle import bundle_digest
from protocol.checks import check_hex
from protocol.errors import ConfigurationError
from protocol.introductions import Introduction, Invitation, fingerprint, write_introduction

NETWORK_FILE: Final = "network.yaml"
"""Name of the network settings in a client's folder."""

_HEAD: Final = (
    "Where the server is and what this node trusts. `rewardds-client join` fills the first three.",
)
_MAX_PORT: Final = 65_535


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How this node reaches its server. Decided here; nothing in it is taken from the wire."""

    server: str = ""
    """The server's address, HOST:PORT."""
    bundle_sha256: str = ""
    """Digest of the only app bundle that this node runs; no other code of the server's is."""
    server_base_model_digest: str = ""
    """Digest of the base model that the server stands on, from its invitation."""
    runtime_port: int = 9094
    """Port on loopback by which the node's own processes reach it; one for each node."""
    restart_seconds: float = 10.0
    """Pause before a node that ended is started again; a returning one is refused for a minute."""
    log_format: LogFormat = LogFormat.LINES
    """lines for people, json for a collector."""
    log_level: LogLevel = LogLevel.INFO
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.server:
            _split(self.server)
        for name in ("bundle_sha256", "server_base_model_digest"):
            if getattr(self, name):
                check_hex(num_bytes=32, **{f"network.{name}": getattr(self, name)})
        if not 1 <= self.runtime_port <= _MAX_PORT:
            raise ConfigurationError(
                f"Expected network.runtime_port from 1 to {_MAX_PORT}, got {self.runtime_port}. "
                "Choose a free port."
            )
        if not 0 < self.restart_seconds <= 3600:
            raise ConfigurationError(
                "Expected 0 < network.restart_seconds <= 3600, got "
                f"{self.restart_seconds:g}. Choose a pause of some seconds."
            )

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The server's address in its two parts."""
        return _split(self.server)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFiles:
    """The network's files in a client's folder."""

    folder: ClientFolder
    """The client's folder."""

    @property
    def settings_file(self) -> Path:
        """Network settings."""
        return self.folder.path / NETWORK_FILE

    @property
    def authority(self) -> Path:
        """Certificate by which the server is known."""
        return self.folder.path / "server_authority.pem"

    @property
    def node_key(self) -> Path:
        """Private key of the node."""
        return self.folder.path / "node_key"

    @property
    def introduction(self) -> Path:
        """What the server's operator needs."""
        return self.folder.path / "introduction.json"

    def load(self) -> NetworkConfig:
        """Read the network settings.

        Raises:
            SettingsError: The file cannot be read, has an unknown key or lacks one.
            ConfigurationError: A value is out of range.
        """
        # A file that lost its end would else have the node use the default port and pause.
        return load_settings(NetworkConfig, self.settings_file, has_all_keys=True)

    def save(self, network: NetworkConfig) -> None:
        """Write the network settings, with comments."""
        with private_file(self.settings_file) as part:
            save_commented_settings(network, part, head=_HEAD)


def make_node_files(folder: ClientFolder) -> str:
    """Make network settings, a node key and the introduction; a key that exists is kept.

    Args:
        folder: The client's folder.

    Returns:
        Fingerprint of the introduction, for its operator to say aloud.
    """
    files = NodeFiles(folder=folder)
    if not files.settings_file.exists():
        files.save(NetworkConfig())
    if not files.node_key.exists():
        write_private_file(files.node_key, _new_node_key())
    introduction = introduce(folder)
    with private_file(files.introduction) as part:
        return write_introduction(introduction, part)


def introduce(folder: ClientFolder) -> Introduction:
    """Say who this client is: name and public keys.

    Args:
        folder: The client's folder.

    Returns:
        The introduction; it holds no secret.

    Raises:
        ConfigurationError: The node key cannot be used.
    """
    public = load_node_key_pair(NodeFiles(folder=folder).node_key).public_key()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Introduction(
        client_name=folder.load_config().name,
        node_key=line.decode("ascii"),
        signing_key=load_signing_key(folder.path).public_key().public_bytes_raw().hex(),
    )


def load_node_key_pair(file: Path) -> ec.EllipticCurvePrivateKey:
    """Read the node's key.

    Args:
        file: Where it lies.

    Returns:
        The key.

    Raises:
        ConfigurationError: It is missing or of another kind.
    """
    try:
        key = serialization.load_ssh_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError(
            f"Expected the node's private key at {file}, found none that can be read. Restore it, "
            "or remove it, run `rewardds-client rotate-key` and send the new introduction."
        )
    return key


def rotate_node_key(folder: ClientFolder) -> str:
    """Make a new node key; the server must be given the new introduction.

    Args:
        folder: The client's folder.

    Returns:
        Fingerprint of the new introduction.
    """
    files = NodeFiles(folder=folder)
    if files.node_key.exists():
        # Whole and beside the other first: on a full disk both old keys stay what they were.
        new = files.node_key.with_name("node_key.new")
        write_private_file(new, _new_node_key())
        files.node_key.replace(files.node_key.with_name("node_key.old"))
        new.replace(files.node_key)
    return make_node_files(folder)


def _new_node_key() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def join(folder: ClientFolder, invitation: Invitation) -> str:
    """Take over what a server's invitation says, if both sides have the same code.

    Args:
        folder: The client's folder.
        invitation: What the server's operator handed over.

    Returns:
        Fingerprint of the invitation, for the server's operator to confirm.

    Raises:
        ConfigurationError: Versions or app bundles differ, or the certificate cannot be used.
    """
    ours = f"RewardDS {SOFTWARE_VERSION}, protocol {PROTOCOL_VERSION}"
    theirs = f"RewardDS {invitation.software_version}, protocol {invitation.protocol_version}"
    if ours != theirs:
        raise ConfigurationError(
            f"Expected a server that runs {ours}, as this client does, found {theirs}. Agree on "
            "one version and install it on both sides."
        )
    own_bundle = bundle_digest()
    # Pinned is what this machine's own sources give; an invitation can only agree with it.
    if invitation.bundle_sha256 != own_bundle:
        raise ConfigurationError(
            f"Expected a server that ships the app bundle {own_bundle[:16]}…, which this client's "
            f"own sources give, found one that ships {invitation.bundle_sha256[:16]}…. Compare the "
            "sources of both sides; nothing of the server's was taken over."
        )
    _split(invitation.server)
    check_authority(invitation.authority)
    files = NodeFiles(folder=folder)
    network = replace(
        files.load(),
        server=invitation.server,
        bundle_sha256=own_bundle,
        server_base_model_digest=invitation.base_model_digest,
    )
    write_private_file(files.authority, invitation.authority.encode("ascii"))
    files.save(network)
    return fingerprint(invitation)


def check_authority(pem: str) -> x509.Certificate:
    """Make sure that a text is one certificate of an authority, and nothing beside it.

    Args:
        pem: The text.

    Returns:
        The certificate.

    Raises:
        ConfigurationError: It is not.
    """
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem.encode("ascii"))
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        ssl.create_default_context(cadata=pem)
        is_authority = constraints.value.ca
    except (ValueError, x509.ExtensionNotFound, ssl.SSLError):
        is_authority = False
    if not is_authority:
        raise ConfigurationError(
            "Expected the certificate of one authority in the invitation, found something else. "
            "Ask the server's operator for the invitation again."
        )
    return certificate


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
        raise ConfigurationError(
            f"Expected network.server as HOST:PORT, got {address!r}. Take it from the invitation."
        )
    return host.strip("[]"), int(port)
