"""A small genuine release, made by the client's own egress, for tests on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from client_side.egress import release
from protocol.accounting import ACCOUNTANT, ACCOUNTANT_VERSION, composed_epsilon
from protocol.artifacts import LoraShape
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import ReleaseReply

RUN_ID: Final = "run-1"
BASE_MODEL_DIGEST: Final = "ab" * 32
CODE_DIGEST: Final = "cd" * 32
SIGNING_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC_KEY: Final = SIGNING_KEY.public_key().public_bytes_raw().hex()
LORA: Final = LoraShape(
    rank=1, alpha=16.0, target_modules=("q_proj",), num_upper_layers=None, use_rslora=False
)


def expected_shapes(lora: LoraShape, has_reward_head: bool) -> Mapping[str, tuple[int, ...]]:
    """Give the shapes of the small model that these releases pretend to be trained on."""
    shapes: dict[str, tuple[int, ...]] = {
        "layers.0.q_proj.lora_A.weight": (lora.rank, 4),
        "layers.0.q_proj.lora_B.weight": (4, lora.rank),
    }
    if has_reward_head:
        shapes["reward_head.weight"] = (1, 4)
    return shapes


def make_tensors(proxy: ProxyKind = ProxyKind.GENERATOR) -> dict[str, NDArray[np.float32]]:
    """Make tensors that fit `expected_shapes`."""
    shapes = expected_shapes(LORA, proxy is ProxyKind.REWARD)
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make_events() -> tuple[DpSgdEvent, ...]:
    """Give one event for each proxy, cheap to account for."""
    return tuple(
        DpSgdEvent(proxy=proxy, noise_multiplier=1.0, sample_rate=0.05, steps=10)
        for proxy in ProxyKind
    )


def make_ledger(
    events: Sequence[DpSgdEvent] | None = None,
    *,
    epsilon: float | None = None,
    delta: float = 1e-5,
    reproducible_noise: bool = False,
) -> PrivacyLedger:
    """Make a ledger whose sum is right, unless `epsilon` says otherwise."""
    listed = tuple(make_events() if events is None else events)
    return PrivacyLedger(
        unit=PrivacyUnit.RECORD,
        events=listed,
        epsilon=composed_epsilon(listed, delta=delta) if epsilon is None else epsilon,
        delta=delta,
        accountant=ACCOUNTANT,
        accountant_version=ACCOUNTANT_VERSION,
        reproducible_noise=reproducible_noise,
    )


def make_reply(
    *,
    proxy: ProxyKind = ProxyKind.GENERATOR,
    client_name: str = "clinic-a",
    run_id: str = RUN_ID,
    ledger: PrivacyLedger | None = None,
    tensors: Mapping[str, NDArray[np.float32]] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    lora: LoraShape = LORA,
    base_model_digest: str = BASE_MODEL_DIGEST,
    signing_key: Ed25519PrivateKey = SIGNING_KEY,
    start_digest: str | None = None,
    instruction: str = "Answer the message.",
) -> ReleaseReply:
    """Make a signed release through `client_side.egress.release`."""
    return release(
        tensors=make_tensors(proxy) if tensors is None else tensors,
        expected_shapes=(
            expected_shapes(LORA, proxy is ProxyKind.REWARD) if shapes is None else shapes
        ),
        proxy=proxy,
        ledger=make_ledger() if ledger is None else ledger,
        client_name=client_name,
        run_id=run_id,
        declared_size=1000,
        lora=lora,
        base_model_digest=base_model_digest,
        code_digest=CODE_DIGEST,
        instruction=instruction,
        max_prompt_tokens=64,
        max_response_tokens=96,
        signing_key=signing_key,
        start_digest=start_digest,
    )
