"""The two small files with which a server and a client get to know each other, once.

The server's operator hands out an *invitation*: address, certificate of the server's authority, and
what both must have alike (versions, app bundle, base model). The client's operator hands back an
*introduction*: the client's name and its two public keys. Neither holds a secret. Both travel
outside of this software, so each has a fingerprint that the two people compare by voice.

Covers: files that are torn, too long, of another kind, or with keys that are none.
Does not cover: who really wrote a file; that is what the spoken fingerprint is for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from protocol.checks import check_count, check_hex, check_name, check_text
from protocol.errors import ConfigurationError, MalformedMessageError

MAX_FILE_BYTES: Final = 64 * 1024
"""A longer file is neither of the two."""

_NUM_FINGERPRINT_DIGITS: Final = 32
_GROUP: Final = 4
_MAX_PEM_CHARS: Final = 16 * 1024
_CURVE: Final = "secp384r1"

T = TypeVar("T", "Invitation", "Introduction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """What a client must know of a server before it connects."""

    server: str
    """Address, HOST:PORT."""
    authority: str
    """Certificate of the authority that signed the server's, as PEM."""
    protocol_version: int
    """Version of the protocol that the server speaks."""
    software_version: str
    """Version of RewardDS on the server."""
    bundle_sha256: str
    """Digest of the app bundle that the server ships."""
    base_model_digest: str
    """Digest of the base model that both proxies stand on."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_text(max_chars=300, server=self.server)
        check_text(max_chars=_MAX_PEM_CHARS, authority=self.authority)
        check_count(at_least=1, at_most=10**6, protocol_version=self.protocol_version)
        check_text(max_chars=64, software_version=self.software_version)
        check_hex(num_bytes=32, bundle_sha256=self.bundle_sha256)
        check_hex(num_bytes=32, base_model_digest=self.base_model_digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Introduction:
    """What a server must know of a client before it lets it in."""

    client_name: str
    """Name of the client, chosen by its operator."""
    node_key: str
    """Public key of its node, as one OpenSSH line (curve P-384)."""
    signing_key: str
    """Ed25519 public key with which its releases are signed, as 64 hexadecimal digits."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_name(client_name=self.client_name)
        check_text(max_chars=1000, node_key=self.node_key)
        check_hex(num_bytes=32, signing_key=self.signing_key)
        load_node_key(self.node_key)


def load_node_key(line: str) -> EllipticCurvePublicKey:
    """Read the public key of a node.

    Args:
        line: One OpenSSH line.

    Returns:
        The key.

    Raises:
        ConfigurationError: It is no key on the curve P-384.
    """
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != _CURVE:
        raise ConfigurationError(
            "Expected node_key as one OpenSSH line with a P-384 public key, got something else. "
            "Take the introduction that `rewardds-client init` made."
        )
    return key


def write_introduction(value: Invitation | Introduction, file: Path) -> str:
    """Write either of the two files, whole or not at all.

    Args:
        value: What it says.
        file: Where.

    Returns:
        Its fingerprint.

    Raises:
        OSError: The disk refuses; an older file there is as it was.
    """
    document = {"kind": type(value).__name__.lower(), **dataclasses.asdict(value)}
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    # One file of an allow-list that is cut would shut every client out. While it grows its name
    # does not end as those that are read.
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            if file.exists():  # who may read it stays as it was
                os.fchmod(opened.fileno(), stat.S_IMODE(file.stat().st_mode))
            os.fsync(opened.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return fingerprint(value)


def read_introduction(kind: type[T], file: Path) -> T:
    """Read either of the two files.

    Args:
        kind: Which one is expected.
        file: Where it lies.

    Returns:
        What it says, checked.

    Raises:
        MalformedMessageError: It is not such a file.
    """
    name = kind.__name__.lower()
    problem = ""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        document = json.loads(data) if len(data) <= MAX_FILE_BYTES else None
        if not isinstance(document, dict) or document.pop("kind", None) != name:
            problem = "another kind of file"
        elif document.keys() != {item.name for item in dataclasses.fields(kind)}:
            problem = "missing or unknown entries"
        else:
            return kind(**document)
    except ConfigurationError as error:
        problem = f"a wrong entry ({error})"
    except OSError as error:
        problem = type(error).__name__
    except (ValueError, RecursionError):
        problem = "no JSON"
    raise MalformedMessageError(
        f"Expected an {name} at {file}, found {problem}. Ask for the file again, as it was written."
    )


def fingerprint(value: Invitation | Introduction) -> str:
    """Return what two operators compare by voice: 32 hexadecimal digits in groups of four.

    Args:
        value: What a file says.

    Returns:
        Half of the SHA-256 over its canonical form; 128 bits are beyond any search.
    """
    document = {"kind": type(value).__name__.lower(), **dataclasses.asdict(value)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    digits = hashlib.sha256(text.encode()).hexdigest()[:_NUM_FINGERPRINT_DIGITS]
    return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))
