"""The single checks of admission, each of which looks at one thing and raises with its own code.

`server_side/admission.py` says in which order they run, and is the only caller.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lm.errors import LmError
from protocol.accounting import ACCOUNTANT, MIN_DELTA, composed_epsilon
from protocol.artifacts import Certificate, LoraShape, Release
from protocol.checks import check_count, check_hex, check_name, check_open_fraction, check_positive
from protocol.errors import (
    AdmissionCode,
    DigestMismatchError,
    LedgerMismatchError,
    SignatureError,
    UnexpectedTensorError,
)
from protocol.ledger import ProxyKind

ExpectedShapes = Callable[[LoraShape, bool], Mapping[str, tuple[int, ...]]]
"""Tells shape by name of an adapter on the server's base model, with or without a reward head."""

_EPSILON_TOLERANCE: Final = 1e-4
"""Relative difference that another version of the accountant may make; more is a wrong claim."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmissionPolicy:
    """Which releases the server accepts.

    Raises:
        ConfigurationError: A value is out of range.
    """

    run_id: str
    """The run that releases must be made for."""
    base_model_digest: str
    """SHA-256 of the base model that adapters will be attached to."""
    max_epsilon: float = 8.0
    """Largest composed epsilon."""
    max_delta: float = 1e-5
    """Largest delta."""
    allowed_public_keys: tuple[str, ...] | None = None
    """Keys of known clients as hexadecimal text; None lets any key pass."""
    client_keys: Mapping[str, frozenset[str]] | None = None
    """By client name, the keys that may sign for it; None lets any key sign for any name."""
    allowed_code_digests: tuple[str, ...] | None = None
    """Digests of client code that may have made a release; None lets any pass."""
    accept_reproducible_noise: bool = False
    """Whether noise from a fixed seed passes, as in simulations and tests."""
    accept_unsafe_non_private: bool = False
    """Whether releases without any protection pass, as for baselines on public records."""
    start_digests: Mapping[str, str] | None = field(default_factory=dict)
    """SHA-256 of the starting weights that were sent, by `start_name` of client and proxy; None
    where nobody knows, as for a release far from its run."""
    max_release_bytes: int = 256 * 1024 * 1024
    """Largest message that is read at all."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_name(run_id=self.run_id)
        check_hex(num_bytes=32, base_model_digest=self.base_model_digest)
        check_positive(max_epsilon=self.max_epsilon)
        check_open_fraction(max_delta=self.max_delta)
        check_count(at_least=1, at_most=2**40, max_release_bytes=self.max_release_bytes)
        for public_key in self.allowed_public_keys or ():
            check_hex(num_bytes=32, allowed_public_keys=public_key)
        for name, public_keys in (self.client_keys or {}).items():
            check_name(client_keys=name)
            for public_key in public_keys:
                check_hex(num_bytes=32, client_keys=public_key)
        for code_digest in self.allowed_code_digests or ():
            check_hex(num_bytes=32, allowed_code_digests=code_digest)


def check_signature(release: Release, policy: AdmissionPolicy) -> None:
    """Check that the key is one the server knows, and that it signed the certificate.

    Args:
        release: What came, well-formed; nothing that it states is believed yet.
        policy: Its `allowed_public_keys` and `client_keys`; either of them lets any key pass where
            it is None.

    Raises:
        SignatureError: One of the two is not so.
    """
    key, known = release.public_key.hex(), policy.allowed_public_keys
    if known is not None and key not in known:
        raise SignatureError(
            f"Expected one of {len(known)} allowed_public_keys, found {key}. "
            f"Add the key if you know the client.",
            code=AdmissionCode.UNKNOWN_KEY,
        )
    register = policy.client_keys
    if register is not None and not any(key in keys for keys in register.values()):
        raise SignatureError(
            f"Expected the key of one of {len(register)} allowed clients, found {key}. Let the "
            f"client in with `rewardds-server allow-client` if you know it.",
            code=AdmissionCode.UNKNOWN_KEY,
        )
    release.verify_signature()


def may_sign(policy: AdmissionPolicy, *, client_name: str, public_key: str) -> bool:
    """Tell whether a key speaks for a client.

    Args:
        policy: Its `client_keys`; where they are None, any key speaks for any client.
        client_name: The client's name, as its hello or its certificate states it.
        public_key: Ed25519 key, 32 bytes as hexadecimal text.

    Returns:
        True where it does. A name that is not registered has no key.
    """
    register = policy.client_keys
    return register is None or public_key in register.get(client_name, frozenset())


def check_digests(certificate: Certificate, policy: AdmissionPolicy) -> None:
    """Check that the release was made on the server's base model and by accepted code.

    Args:
        certificate: What the client signed.
        policy: Its `base_model_digest` and `allowed_code_digests`; where the latter are None, any
            code passes.

    Raises:
        DigestMismatchError: One of the two is not so.
    """
    if certificate.base_model_digest != policy.base_model_digest:
        raise DigestMismatchError(
            f"Expected base model {policy.base_model_digest}, found "
            f"{certificate.base_model_digest}. Use the same base model on both sides.",
            code=AdmissionCode.BASE_MODEL,
        )
    codes = policy.allowed_code_digests
    if codes is not None and certificate.code_digest not in codes:
        raise DigestMismatchError(
            f"Expected one of {len(codes)} allowed_code_digests, found {certificate.code_digest}. "
            f"Add it if you know the code.",
            code=AdmissionCode.CODE,
        )


def start_name(client_name: str, proxy: ProxyKind) -> str:
    """Name the starting weights for one proxy of one client.

    Args:
        client_name: The client's public name.
        proxy: Which of its proxies starts from them.

    Returns:
        `<client>.<proxy>`, the key in `AdmissionPolicy.start_digests` and the stem of their file.
    """
    return f"{client_name}.{proxy.value}"


def check_start(certificate: Certificate, policy: AdmissionPolicy) -> None:
    """Check that training started where this server said, and fresh where it said nothing.

    Args:
        certificate: What the client signed; without a `start_digest` it states a fresh start.
        policy: Its `start_digests`; where they are None, any start passes.

    Raises:
        DigestMismatchError: It is not so.
    """
    if policy.start_digests is None:
        return
    sent = policy.start_digests.get(start_name(certificate.client_name, certificate.proxy))
    if certificate.start_digest != sent:
        raise DigestMismatchError(
            f"Expected a release that started from {sent or 'a fresh adapter'}, found "
            f"{certificate.start_digest or 'a fresh adapter'}. Ask the client to answer this "
            "request.",
            code=AdmissionCode.START,
        )


def check_claim(certificate: Certificate, policy: AdmissionPolicy) -> None:
    """Check what the ledger says, before anything is computed from it.

    Args:
        certificate: What the client signed; its ledger is the client's word.
        policy: Its limits on epsilon and delta, and which noise it accepts.

    Raises:
        LedgerMismatchError: The policy does not accept it.
    """
    claim = certificate.privacy
    if not any(event.proxy is certificate.proxy for event in claim.events):
        raise LedgerMismatchError(
            f"Expected an event for the {certificate.proxy.value} proxy, found none among "
            f"{len(claim.events)}. Ask the client for a complete ledger.",
            code=AdmissionCode.UNACCOUNTED,
        )
    if math.isinf(claim.epsilon):
        if not policy.accept_unsafe_non_private:
            raise LedgerMismatchError(
                f"Expected a finite epsilon, found none: client {certificate.client_name} trained "
                f"without protection. Set accept_unsafe_non_private for a baseline.",
                code=AdmissionCode.NOT_PRIVATE,
            )
        _logger.warning(
            "Client %s: release without any privacy, let in by accept_unsafe_non_private.",
            certificate.client_name,
        )
    if claim.reproducible_noise:
        if not policy.accept_reproducible_noise:
            raise LedgerMismatchError(
                f"Expected secret noise, found that client {certificate.client_name} used a fixed "
                f"seed. Set accept_reproducible_noise for a simulation.",
                code=AdmissionCode.REPRODUCIBLE_NOISE,
            )
        _logger.warning(
            "Client %s: noise from a fixed seed, let in by accept_reproducible_noise.",
            certificate.client_name,
        )
    # Below the least delta nothing can be computed, so that such a claim could not be checked.
    if not MIN_DELTA <= claim.delta <= policy.max_delta:
        raise LedgerMismatchError(
            f"Expected {MIN_DELTA:g} <= delta <= max_delta={policy.max_delta:g}, found "
            f"{claim.delta:g}. Ask the client for a target_delta in that range.",
            code=AdmissionCode.DELTA,
        )
    _check_epsilon_limit(claim.epsilon, policy)


def check_ledgers_agree(certificate: Certificate, earlier: Sequence[Certificate]) -> None:
    """Check that the ledger of a client's reward proxy contains that of its generator proxy.

    Each ledger lists the whole lifetime, and the reward proxy is trained after the other was
    released. A client that listed for each proxy that proxy's own event would state two prices,
    each of them right by itself, and leave out what both cost together.

    Args:
        certificate: What came now.
        earlier: Certificates of the same client's releases that were admitted.

    Raises:
        LedgerMismatchError: It does not.
    """
    for other in earlier:
        first, second = (
            (other.privacy, certificate.privacy)
            if other.proxy is ProxyKind.GENERATOR
            else (certificate.privacy, other.privacy)
        )
        is_same_unit = (first.unit, first.relation) == (second.unit, second.relation)
        if not is_same_unit or not Counter(first.events) <= Counter(second.events):
            raise LedgerMismatchError(
                f"Expected the ledger of client {certificate.client_name}'s reward proxy to go on "
                f"with the {len(first.events)} {first.unit.value} events of its generator proxy, "
                f"found {len(second.events)} {second.unit.value} events that do not. Ask the "
                f"client for a complete ledger.",
                code=AdmissionCode.UNACCOUNTED,
            )


def _check_epsilon_limit(epsilon: float, policy: AdmissionPolicy) -> None:
    if math.isfinite(epsilon) and epsilon > policy.max_epsilon:
        raise LedgerMismatchError(
            f"Expected epsilon <= max_epsilon={policy.max_epsilon:g}, found {epsilon:.4g} over the "
            f"lifetime of the records. Raise max_epsilon or ask for less.",
            code=AdmissionCode.EPSILON,
        )


def check_tensors(release: Release, expected_shapes: ExpectedShapes) -> None:
    """Check names, shapes, values and digest of the weights, in this order.

    Args:
        release: The release whose signature was found right.
        expected_shapes: Shapes of an adapter on the server's own base model.

    Raises:
        UnexpectedTensorError: A tensor is not one that was stated, or not finite.
        DigestMismatchError: The weights are not the ones that were signed.
    """
    certificate, tensors = release.certificate, release.weights.tensors
    try:
        expected = expected_shapes(certificate.lora, certificate.has_reward_head)
    except LmError as error:
        raise UnexpectedTensorError(
            f"Expected an adapter that fits the base model. {error}",
            code=AdmissionCode.TENSOR_NAMES,
        ) from None
    if tensors.keys() != expected.keys():
        odd = ", ".join(ascii(name)[:80] for name in sorted(tensors.keys() ^ expected.keys())[:3])
        raise UnexpectedTensorError(
            f"Expected the {len(expected)} tensors of the stated adapter, found {len(tensors)}, "
            f"which differ in {odd}. Ask the client to release again.",
            code=AdmissionCode.TENSOR_NAMES,
        )
    for name, shape in expected.items():
        if tensors[name].shape != tuple(shape):
            raise UnexpectedTensorError(
                f"Expected shape {tuple(shape)} for {name}, found {tensors[name].shape}. "
                f"Ask the client to release again."
            )
    if not release.weights.is_finite():
        raise UnexpectedTensorError(
            f"Expected finite weights, found infinite ones or some that are not a number from "
            f"client {certificate.client_name}. Ask the client to release again.",
            code=AdmissionCode.NOT_FINITE,
        )
    if release.weights.digest() != certificate.weights_digest:
        raise DigestMismatchError(
            f"Expected weights with digest {certificate.weights_digest}, found others. "
            f"Ask the client to send the release again."
        )


def recompute_epsilon(certificate: Certificate) -> float:
    """Compute epsilon from the events and compare it with the claim.

    Returns:
        Composed epsilon as this server's accountant sees it.

    Raises:
        LedgerMismatchError: The claim does not follow from the events, or nothing does.
    """
    claim = certificate.privacy
    try:
        epsilon = composed_epsilon(claim.events, delta=claim.delta)
    # The numbers are the other party's, and the accountant is a library that was not written for
    # such: whatever it raises, this claim is refused, and other clients' releases are looked at.
    except Exception as error:
        raise LedgerMismatchError(
            f"Expected a ledger that {ACCOUNTANT} can add up, found one of {len(claim.events)} "
            f"events at delta={claim.delta:g} on which it failed with {type(error).__name__}. Do "
            f"not use releases of client {certificate.client_name}."
        ) from error
    if not math.isclose(epsilon, claim.epsilon, rel_tol=_EPSILON_TOLERANCE, abs_tol=1e-9):
        raise LedgerMismatchError(
            f"Expected epsilon={epsilon:.6g} from the {len(claim.events)} listed events, found the "
            f"claim {claim.epsilon:.6g}. Do not use releases of client {certificate.client_name}."
        )
    return epsilon
