"""A generator trained on canaries with tiny models, attacked and bounded, in a few seconds.

Every unit is drawn in every step (`sample_rate` 1) and there is hardly anything beside the
canaries, so that the attack sees a broken mechanism at once; the claim is a small ε, so that a
bound can exceed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client_side.config import GeneratorConfig, LoraConfig, Precision, RecordsConfig
from client_side.dp_sgd import DpSgdPlan
from client_side.generator import train_generator
from client_side.randomness import Randomness
from client_side.records import PrivateRecord
from lm.encoding import encode_chat
from lm.loading import load_tokenizer
from protocol.accounting import PlannedRun, calibrate
from protocol.ledger import ProxyKind
from simulations.audit.attacks import generator_gradient_scores
from simulations.audit.bounds import AuditBound, audit_bound

NUM_CANARIES = 300
CLAIMED_EPSILON = 1.0
DELTA = 1e-5
STEPS = 2

RECORDS = RecordsConfig(max_prompt_tokens=8, max_response_tokens=16)
CONFIG = GeneratorConfig(
    lora=LoraConfig(
        rank=4,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
        freeze_a=True,
    ),
    steps=STEPS,
    expected_batch_size=NUM_CANARIES // 2,
    max_grad_norm=0.02,
    learning_rate=1e-3,
    max_batch_tokens=4096,
    precision=Precision.FLOAT32,
    prompt_loss_weight=0.0,
)
PLAN_EVENT = calibrate(
    [PlannedRun(proxy=ProxyKind.GENERATOR, sample_rate=1.0, steps=STEPS)],
    target_epsilon=CLAIMED_EPSILON,
    target_delta=DELTA,
).events[0]

Tensors = Mapping[str, npt.NDArray[np.float32]]
Train = Callable[[list[PrivateRecord]], Tensors]


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Units of one or more records, and the coins."""

    units: list[list[PrivateRecord]]
    coins: npt.NDArray[np.bool_]

    @property
    def trained(self) -> list[PrivateRecord]:
        return [record for unit, coin in zip(self.units, self.coins, strict=True) if coin for record in unit]


def make_canaries(*, records_per_unit: int = 1, seed: int = 0) -> Canaries:
    """Random letters; the records of one unit say the same, in so many copies that differ a bit."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    units = []
    for number in range(NUM_CANARIES):
        response = "".join(rng.choice(letters, 12))
        units.append(
            [
                PrivateRecord(prompt=f"hi {copy}", response=response, unit_id=f"unit-{number}")
                for copy in range(records_per_unit)
            ]
        )
    return Canaries(units=units, coins=rng.random(NUM_CANARIES) < 0.5)


def train(
    records: list[PrivateRecord], *, base_folder: Path, randomness: Randomness | None = None
) -> Tensors:
    """Train as a client does, with the noise that the claim needs."""
    return train_generator(
        records,
        base_folder=base_folder,
        config=CONFIG,
        records_config=RECORDS,
        plan=DpSgdPlan(
            noise_multiplier=PLAN_EVENT.noise_multiplier,
            sample_rate=1.0,
            expected_batch_size=CONFIG.expected_batch_size,
            steps=STEPS,
            max_grad_norm=CONFIG.max_grad_norm,
        ),
        randomness=randomness or Randomness(),
    ).tensors


def bound(
    tensors: Tensors, canaries: Canaries, *, base_folder: Path, known: Tensors | None = None
) -> AuditBound:
    """Attack released weights by gradients; `known` is what the attacker can take off of them."""
    from client_side.generator import lora_shape
    from lm.adapters import attach_lora, adapter_tensors
    from lm.loading import load_causal_lm

    lora = lora_shape(CONFIG)
    tokenizer = load_tokenizer(base_folder)
    chats = [
        encode_chat(
            tokenizer,
            instruction=RECORDS.instruction,
            prompt=unit[0].prompt,
            response=unit[0].response,
            max_prompt_tokens=RECORDS.max_prompt_tokens,
            max_response_tokens=RECORDS.max_response_tokens,
        )
        for unit in canaries.units
    ]
    if known is not None:
        start = adapter_tensors(attach_lora(load_causal_lm(base_folder), lora, seed=0))
        tensors = {name: start[name] + tensors[name] - known[name] for name in tensors}
    scores = generator_gradient_scores(
        chats, base_folder=base_folder, tensors=tensors, lora=lora, config=CONFIG
    )
    return audit_bound(scores, canaries.coins, delta=DELTA, significance=0.05)
