"""The only way out: checks two proxies' weights and their price, signs, and builds the reply.

Last stage on the client. What leaves is put together here from an explicit list of fields; every
one of them is a setting of the operator's, a digest, an accounted price, or a tensor that DP-SGD
trained. Nothing in this module can see a record, and it imports nothing that can.

Covers: unexpected tensors and fields, values that are not finite, releases without an event that
pays, a ledger whose sum is wrong, a reply that the server could not read.
Does not cover: whether the tensors were really trained as the event says
(`client_side/dp_sgd.py`), or whether the event was reserved (`client_side/budget.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from client_side.ledger_file import lock_folder, write_whole
from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.accounting import composed_epsilon
from protocol.artifacts import (
    SECONDS_PER_DAY,
    AdapterWeights,
    Certificate,
    LoraShape,
    sign_release,
)
from protocol.errors import (
    AdmissionCode,
    ConfigurationError,
    UnaccountedReleaseError,
    UnexpectedTensorError,
)
from protocol.ledger import PrivacyLedger, ProxyKind
from protocol.messages import ReleaseReply
from protocol.wire import decode_bytes, encode_bytes

_KEY_FILE: Final = "signing_key"


def release(
    *,
    tensors: Mapping[str, NDArray[np.float32]],
    expected_shapes: Mapping[str, tuple[int, ...]],
    proxy: ProxyKind,
    ledger: PrivacyLedger,
    client_name: str,
    run_id: str,
    declared_size: int,
    lora: LoraShape,
    base_model_digest: str,
    code_digest: str,
    instruction: str,
    max_prompt_tokens: int,
    max_response_tokens: int,
    signing_key: Ed25519PrivateKey,
    start_digest: str | None = None,
) -> ReleaseReply:
    """Check, certify and sign one proxy.

    Args:
        tensors: Trained adapter and, for the reward proxy, its head.
        expected_shapes: Shape of each tensor that may leave, by name.
        proxy: Which model this is.
        ledger: Lifetime statement from `BudgetLedger.statement`, after the reservation.
        client_name: Name that the operator chose.
        run_id: The server's run.
        declared_size: Public number of units.
        lora: How to attach the adapter.
        base_model_digest: SHA-256 of the base model.
        code_digest: SHA-256 of the client's sources.
        instruction: Public description of the domain.
        max_prompt_tokens: From the operator's settings.
        max_response_tokens: From the operator's settings.
        signing_key: The client's key, from `load_signing_key`.
        start_digest: Digest of the public weights that training started from.

    Returns:
        The reply to send and to store.

    Raises:
        UnaccountedReleaseError: The ledger has no event for this proxy or understates the cost.
        UnexpectedTensorError: A name, shape, type or value is not one that may leave.
        ConfigurationError: A setting is out of range.

    Privacy:
        Output leaves the client. The tensors are bounded by the event of their proxy in `ledger`;
        everything else is a setting, a digest of released or public bytes, or today's date.
    """
    # Privacy: no event, no release.
    if not any(event.proxy is proxy for event in ledger.events):
        raise UnaccountedReleaseError(
            f"Expected an event for the {proxy.value} proxy in the ledger, found "
            f"{len(ledger.events)} for others. Reserve before training."
        )
    # Privacy: the claim that travels is recomputed here, whoever filled in the ledger.
    if ledger.epsilon < composed_epsilon(ledger.events, delta=ledger.delta):
        raise UnaccountedReleaseError(
            f"Expected an epsilon that covers all {len(ledger.events)} events, found "
            f"{ledger.epsilon:.4g}, which is too low. Take the ledger from the budget's statement."
        )
    weights = _checked_weights(tensors, expected_shapes)
    certificate = Certificate(
        protocol_version=PROTOCOL_VERSION,
        software_version=SOFTWARE_VERSION,
        client_name=client_name,
        run_id=run_id,
        proxy=proxy,
        privacy=ledger,
        declared_size=declared_size,
        lora=lora,
        has_reward_head=proxy is ProxyKind.REWARD,
        base_model_digest=base_model_digest,
        weights_digest=weights.digest(),
        code_digest=code_digest,
        instruction=instruction,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
        # Privacy: to the day, because the length of a training depends on the records.
        created_at=int(time.time()) // SECONDS_PER_DAY * SECONDS_PER_DAY,
        start_digest=start_digest,
    )
    signed = sign_release(certificate, weights=weights, signing_key=signing_key)
    reply = ReleaseReply(release=signed)
    # What the server cannot read back must fail here, where it can still be put right.
    decode_bytes(encode_bytes(reply), ReleaseReply).release.verify_signature()
    return reply


def load_signing_key(folder: Path) -> Ed25519PrivateKey:
    """Read the client's Ed25519 key, or make one on the first call.

    Args:
        folder: The client's own folder; the key file in it is readable by its owner alone.

    Returns:
        The key; its public half is what servers know this client by.

    Raises:
        ConfigurationError: The file is not a key.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _KEY_FILE
    with lock_folder(folder):
        if not path.exists():
            write_whole(path, Ed25519PrivateKey.generate().private_bytes_raw())
        data = path.read_bytes()
    if len(data) != 32:
        raise ConfigurationError(
            f"Expected 32 bytes in {path}, found {len(data)}. Restore the key, or remove the file "
            f"to get a new one, which servers will not know."
        )
    return Ed25519PrivateKey.from_private_bytes(data)


def _checked_weights(
    tensors: Mapping[str, NDArray[np.float32]], expected_shapes: Mapping[str, tuple[int, ...]]
) -> AdapterWeights:
    """Let through exactly the expected tensors, if all their values are finite."""
    if tensors.keys() != expected_shapes.keys():
        odd = sorted(tensors.keys() ^ expected_shapes.keys())
        raise UnexpectedTensorError(
            f"Expected {len(expected_shapes)} tensors that were asked for, found others or fewer: "
            f"{', '.join(odd[:3])}. Release the adapter alone.",
            code=AdmissionCode.TENSOR_NAMES,
        )
    weights = AdapterWeights(tensors=tensors)
    for name, shape in expected_shapes.items():
        if weights.tensors[name].shape != tuple(shape):
            raise UnexpectedTensorError(
                f"Expected shape {tuple(shape)} for {name}, found {weights.tensors[name].shape}. "
                f"Release the adapter of the base model that was asked for."
            )
    # Privacy: a look at noised weights, so post-processing; that they stay home costs nothing more.
    if not weights.is_finite():
        raise UnexpectedTensorError(
            "Expected finite weights, found infinite ones or some that are not a number: the "
            "training diverged. Lower this proxy's learning_rate or head_learning_rate_ratio; this "
            "training was charged and is not released.",
            code=AdmissionCode.NOT_FINITE,
        )
    return weights
