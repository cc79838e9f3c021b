"""The questions and answers of the exchange: plain values, no bytes.

The server asks (`HelloRequest`, then one `TrainingRequest` for each proxy, or a
`WarmTrainingRequest` where public text came before), the client answers with
`HelloReply`, `ReleaseReply` or a bare `Refusal`. A request is a request: the client's own policy
decides. `protocol/wire.py` turns these into bytes and back.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from protocol.artifacts import AdapterWeights, LoraShape, Release
from protocol.checks import (
    check_count,
    check_hex,
    check_name,
    check_not_negative,
    check_open_fraction,
    check_positive,
    check_text,
)
from protocol.documents import to_canonical_bytes
from protocol.errors import DigestMismatchError, RefusalCode
from protocol.ledger import MAX_STEPS, PrivacyUnit, ProxyKind

MAX_DECLARED_SIZE: Final = 10**12
"""Largest public size of a data set that can be stated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HelloRequest:
    """The server asks who is there and on which terms; answering reads no record."""

    protocol_version: int
    """Version of the protocol that the server speaks."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_count(at_least=1, at_most=10**6, protocol_version=self.protocol_version)


@dataclass(frozen=True, kw_only=True, slots=True)
class HelloReply:
    """The client's public settings. Nothing here depends on a record."""

    protocol_version: int
    """Version of the protocol that the client speaks."""
    software_version: str
    """Version of RewardDS on the client."""
    client_name: str
    """Name of the client, chosen by its operator."""
    public_key: str
    """Ed25519 key with which the client signs, as 64 hexadecimal digits."""
    base_model_digest: str
    """SHA-256 of the base model on the client's disk."""
    declared_size: int
    """Public number of units that the operator states; the true count stays home."""
    privacy_unit: PrivacyUnit
    """Whose presence is hidden."""
    epsilon_cap: float | None = None
    """Lifetime cap that the operator set; None where it is not stated."""
    generator_start: LoraShape | None = None
    """Shape of a starting adapter that this client takes for its generator; None: it takes none."""
    reward_start: LoraShape | None = None
    """The same for its reward proxy, whose head comes with it."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_count(at_least=1, at_most=10**6, protocol_version=self.protocol_version)
        check_text(max_chars=64, software_version=self.software_version)
        check_name(client_name=self.client_name)
        check_hex(num_bytes=32, public_key=self.public_key)
        check_hex(num_bytes=32, base_model_digest=self.base_model_digest)
        check_count(at_least=1, at_most=MAX_DECLARED_SIZE, declared_size=self.declared_size)
        if self.epsilon_cap is not None:
            check_not_negative(can_be_infinite=True, epsilon_cap=self.epsilon_cap)
            object.__setattr__(self, "epsilon_cap", float(self.epsilon_cap))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRequest:
    """The server asks for one proxy. None leaves a value to the client's own policy."""

    protocol_version: int
    """Version of the protocol that the server speaks."""
    run_id: str
    """Name of the server's run; a release is bound to it."""
    proxy: ProxyKind
    """Which model is asked for."""
    base_model_digest: str
    """SHA-256 of the base model that the server will attach the adapter to."""
    target_epsilon: float | None = None
    """Composed epsilon for both proxies; the client refuses more than its own setting."""
    target_delta: float | None = None
    """Delta; the client refuses more than its own setting."""
    steps: int | None = None
    """DP-SGD steps; the client refuses more than its own setting."""
    start_digest: str | None = None
    """SHA-256 of the starting weights that come with the request; None where none come."""

    def __post_init__(self) -> None:
        """Check ranges and settle number types, so that equal requests have equal digests."""
        check_count(at_least=1, at_most=10**6, protocol_version=self.protocol_version)
        check_name(run_id=self.run_id)
        check_hex(num_bytes=32, base_model_digest=self.base_model_digest)
        if self.target_epsilon is not None:
            check_positive(target_epsilon=self.target_epsilon)
            object.__setattr__(self, "target_epsilon", float(self.target_epsilon))
        if self.target_delta is not None:
            check_open_fraction(target_delta=self.target_delta)
            object.__setattr__(self, "target_delta", float(self.target_delta))
        if self.steps is not None:
            check_count(at_least=1, at_most=MAX_STEPS, steps=self.steps)
        if self.start_digest is not None:
            check_hex(num_bytes=32, start_digest=self.start_digest)

    def digest(self) -> str:
        """Name this request: the same request asked twice has the same digest."""
        return hashlib.sha256(to_canonical_bytes(self)).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmTrainingRequest:
    """A request together with the public weights that training is to start from.

    Raises:
        DigestMismatchError: The request names other weights.
    """

    request: TrainingRequest
    """What is asked for; names the digest of the weights."""
    start: AdapterWeights
    """Adapter, and for the reward proxy its head, tuned on public text alone."""

    def __post_init__(self) -> None:
        """Bind the weights to the request, which the client's ledger and store know by digest."""
        if self.request.start_digest != self.start.digest():
            raise DigestMismatchError(
                "Expected the starting weights that the request names, found others. Ask again."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseReply:
    """The client hands over a release; it pays for everything in it."""

    release: Release
    """Certificate, signature and weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The client declines. A code from a closed set is all that is ever told."""

    code: RefusalCode
    """Why, as far as the server may know."""


Request = HelloRequest | TrainingRequest | WarmTrainingRequest
"""Everything that the server can ask."""

Message = Request | HelloReply | ReleaseReply | Refusal
"""Everything that can cross the boundary."""
