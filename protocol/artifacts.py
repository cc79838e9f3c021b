"""What leaves a client: adapter weights, the certificate about them, and both signed together.

An `AdapterWeights` is a read-only set of float32 arrays with one byte form (safetensors, no
metadata) and so one digest. A `Certificate` is a list of public statements. A `Release` binds the
two with an Ed25519 signature over the certificate, which names the digest of the weights.

Covers: that the bytes have the form stated, and that the signature was made by the key stated.
Does not cover: whether that key may be trusted, or whether a statement is true
(`server_side/admission.py` checks what can be checked).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import numpy as np
import safetensors.numpy
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray

from protocol.checks import (
    check_count,
    check_hex,
    check_module_name,
    check_name,
    check_positive,
    check_text,
)
from protocol.documents import to_canonical_bytes
from protocol.errors import (
    ConfigurationError,
    MalformedMessageError,
    SignatureError,
    UnexpectedTensorError,
)
from protocol.ledger import PrivacyLedger, ProxyKind

SECONDS_PER_DAY: Final = 86_400
"""Certificates are dated to the day: the time at which training ended is nobody's business."""

MAX_INSTRUCTION_CHARS: Final = 4000
"""Longest domain instruction that a certificate may carry."""

_MAX_HEADER_BYTES: Final = 4 * 1024 * 1024
"""Longest safetensors header; a longer one only serves to exhaust memory."""

# Without a prefix of its own, a signature made for something else could be passed off as this one.
_SIGNING_CONTEXT: Final = b"RewardDS release certificate, protocol version 2\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraShape:
    """What the server needs to know to attach an adapter.

    Raises:
        ConfigurationError: A value is out of range.
    """

    rank: int
    """Rank of the update."""
    alpha: float
    """Scale of the update before division by the rank (or its root)."""
    target_modules: tuple[str, ...]
    """Last name of each adapted layer, such as `q_proj`."""
    num_upper_layers: int | None
    """How many layers, counted from the output, carry the adapter; None means all."""
    use_rslora: bool
    """Whether the scale is divided by the root of the rank instead of the rank."""

    def __post_init__(self) -> None:
        """Check ranges and settle number types."""
        check_count(at_least=1, at_most=4096, rank=self.rank)
        check_positive(alpha=self.alpha)
        check_count(at_least=1, at_most=64, num_target_modules=len(self.target_modules))
        for target_module in self.target_modules:
            check_module_name(target_module=target_module)
        if len(set(self.target_modules)) != len(self.target_modules):
            raise ConfigurationError(
                f"Expected distinct target_modules, got {self.target_modules!r}. Remove doubles."
            )
        if self.num_upper_layers is not None:
            check_count(at_least=1, at_most=4096, num_upper_layers=self.num_upper_layers)
        object.__setattr__(self, "alpha", float(self.alpha))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdapterWeights:
    """Named float32 arrays, copied on the way in and read-only from then on.

    Raises:
        UnexpectedTensorError: An array is not float32, or there is none.
    """

    tensors: Mapping[str, NDArray[np.float32]]
    """Array by name; read-only."""

    def __post_init__(self) -> None:
        """Copy, so that nobody can change weights after their digest was taken."""
        if not self.tensors:
            raise UnexpectedTensorError(
                "Expected at least one tensor, found none. Train an adapter before releasing it."
            )
        copies: dict[str, NDArray[np.float32]] = {}
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32:
                found = getattr(tensor, "dtype", type(tensor).__name__)
                raise UnexpectedTensorError(
                    f"Expected float32 for tensor {name!a}, found {found}. Convert it first."
                )
            copy = np.array(tensor, dtype="<f4", order="C", copy=True)
            copy.flags.writeable = False
            copies[name] = copy
        object.__setattr__(self, "tensors", MappingProxyType(copies))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdapterWeights) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.digest())

    def to_bytes(self) -> bytes:
        """Serialize; equal weights give equal bytes."""
        return bytes(safetensors.numpy.save(dict(self.tensors)))

    def digest(self) -> str:
        """Hash the serialized weights with SHA-256, as hexadecimal text."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def is_finite(self) -> bool:
        """Tell whether no value is infinite or not a number."""
        return all(bool(np.isfinite(tensor).all()) for tensor in self.tensors.values())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read weights that `to_bytes` wrote; accept nothing that it could not have written.

        Args:
            data: Bytes from the other party.

        Returns:
            The weights.

        Raises:
            MalformedMessageError: The bytes are anything else.
        """
        _check_safetensors_header(data)
        try:
            weights = cls(tensors=safetensors.numpy.load(data))
            is_canonical = weights.to_bytes() == data
        except Exception:
            # The parser raises types of its own that may change; the bytes are bad whatever it was.
            raise _malformed_weights("a well-formed safetensors file") from None
        if not is_canonical:
            raise _malformed_weights("a safetensors file in the one form this protocol writes")
        return weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Public statements about one release. Every field is a setting, a name, a digest or a price.

    Raises:
        ConfigurationError: A value is out of range or contradicts another.
    """

    protocol_version: int
    """Version of the protocol in which the release was made."""
    software_version: str
    """Version of RewardDS on the client."""
    client_name: str
    """Name of the client, chosen by its operator."""
    run_id: str
    """The server's run that asked for the release."""
    proxy: ProxyKind
    """Which model this is."""
    privacy: PrivacyLedger
    """All events of these records' lifetime and their composed price."""
    declared_size: int
    """Public number of units that sample rates were computed from."""
    lora: LoraShape
    """How to attach the adapter."""
    has_reward_head: bool
    """Whether a scalar head comes with the adapter."""
    base_model_digest: str
    """SHA-256 of the base model under the adapter."""
    weights_digest: str
    """SHA-256 of the serialized weights."""
    code_digest: str
    """SHA-256 over the client's source files."""
    instruction: str
    """The client's public description of its domain; system turn of every chat. May be empty."""
    max_prompt_tokens: int
    """Longest prompt that training saw."""
    max_response_tokens: int
    """Longest response that training saw."""
    created_at: int
    """UTC seconds since 1970, rounded down to the day."""
    start_digest: str | None = None
    """SHA-256 of the public weights that training started from; None for a fresh adapter."""

    def __post_init__(self) -> None:
        """Check each statement by itself and the head against the proxy."""
        check_count(at_least=1, at_most=10**6, protocol_version=self.protocol_version)
        check_text(max_chars=64, software_version=self.software_version)
        check_name(client_name=self.client_name, run_id=self.run_id)
        check_count(at_least=1, at_most=10**12, declared_size=self.declared_size)
        check_hex(num_bytes=32, base_model_digest=self.base_model_digest)
        check_hex(num_bytes=32, weights_digest=self.weights_digest)
        check_hex(num_bytes=32, code_digest=self.code_digest)
        if self.start_digest is not None:
            check_hex(num_bytes=32, start_digest=self.start_digest)
        check_text(max_chars=MAX_INSTRUCTION_CHARS, can_be_empty=True, instruction=self.instruction)
        check_count(
            at_least=1,
            at_most=10**6,
            max_prompt_tokens=self.max_prompt_tokens,
            max_response_tokens=self.max_response_tokens,
        )
        check_count(at_least=0, at_most=10**11, created_at=self.created_at)
        if self.created_at % SECONDS_PER_DAY:
            raise ConfigurationError(
                f"Expected created_at as a multiple of {SECONDS_PER_DAY} seconds, got "
                f"created_at={self.created_at}. Round it down to the day."
            )
        if self.has_reward_head != (self.proxy is ProxyKind.REWARD):
            raise ConfigurationError(
                f"Expected a reward head for the reward proxy and for no other, got "
                f"proxy={self.proxy.value} with has_reward_head={self.has_reward_head}. "
                f"State the proxy that was trained."
            )

    def signed_bytes(self) -> bytes:
        """Give the exact bytes that the client signs and the server verifies."""
        return _SIGNING_CONTEXT + to_canonical_bytes(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """Weights with their signed certificate. Holding one says nothing about its being genuine."""

    certificate: Certificate
    """Public statements."""
    signature: bytes
    """Ed25519 signature over `certificate.signed_bytes()`."""
    public_key: bytes
    """Ed25519 key, 32 raw bytes."""
    weights: AdapterWeights
    """The adapter, and for the reward proxy its head."""

    def __post_init__(self) -> None:
        """Check lengths; whether the signature is right is `verify_signature`'s question."""
        check_count(at_least=64, at_most=64, num_signature_bytes=len(self.signature))
        check_count(at_least=32, at_most=32, num_public_key_bytes=len(self.public_key))

    def verify_signature(self) -> None:
        """Check that `public_key` signed exactly this certificate.

        Raises:
            SignatureError: It did not.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(self.public_key)
            key.verify(self.signature, self.certificate.signed_bytes())
        except (InvalidSignature, ValueError):
            raise SignatureError(
                f"Expected a certificate signed by the key {self.public_key.hex()}, found a "
                f"signature that does not fit. Ask the client to send the release again."
            ) from None


def sign_release(
    certificate: Certificate, *, weights: AdapterWeights, signing_key: Ed25519PrivateKey
) -> Release:
    """Sign a certificate and put it together with its weights.

    Args:
        certificate: The statements to sign; must name the digest of `weights`.
        weights: What the certificate is about.
        signing_key: The client's private key.

    Returns:
        The signed release.
    """
    return Release(
        certificate=certificate,
        signature=signing_key.sign(certificate.signed_bytes()),
        public_key=signing_key.public_key().public_bytes_raw(),
        weights=weights,
    )


def digest_code(folders: Iterable[Path]) -> str:
    """Hash the Python sources under some package folders: their relative names and contents.

    Args:
        folders: Package folders, such as `client_side`, `lm` and `protocol`.

    Returns:
        SHA-256 as hexadecimal text; the same for the same sources wherever they lie.
    """
    total = hashlib.sha256()
    for folder in sorted(folders, key=lambda path: path.name):
        for path in sorted(folder.rglob("*.py")):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()


def _check_safetensors_header(data: bytes) -> None:
    """Read names, types and offsets before anything is allocated for them."""
    num_header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or num_header_bytes > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise _malformed_weights("a safetensors header within the bytes that arrived")
    try:
        header = json.loads(data[8 : 8 + num_header_bytes])
        is_float32 = bool(header) and all(entry["dtype"] == "F32" for entry in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _malformed_weights("a safetensors header") from None
    if not is_float32:
        raise _malformed_weights("float32 tensors and no metadata")


def _malformed_weights(expected: str) -> MalformedMessageError:
    return MalformedMessageError(
        f"Expected {expected} as weights, found something else. Ask the sender for its version."
    )
