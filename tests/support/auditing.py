"""The quick audit: a generator trained on canaries with a tiny model, attacked within seconds.

It attacks what the analysis of DP-SGD gives away, the noisy gradient of every step. That is more
than a release shows, so it sees a broken mechanism that a release would hide behind Adam. Every
unit is drawn in every step, and the claim is a small ε, so that there is something to exceed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from client_side import proxy_optimizer
from client_side.config import GeneratorConfig, LoraConfig, Precision, RecordsConfig
from client_side.dp_sgd import DpSgdPlan
from client_side.generator import ADAPTER_SEED, lora_shape, train_generator
from client_side.randomness import Randomness
from client_side.records import PrivateRecord
from lm.adapters import attach_lora, freeze_a
from lm.encoding import encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from protocol.accounting import PlannedRun, calibrate
from protocol.ledger import ProxyKind
from simulations.audit.attacks import FloatArray, generator_gradients, gradient_shares
from simulations.audit.bounds import AuditBound, audit_bound
from simulations.tiny_models import build_tiny_model

NUM_CANARIES: Final = 200
CLAIMED_EPSILON: Final = 1.0
DELTA: Final = 1e-5
STEPS: Final = 4

RECORDS: Final = RecordsConfig(instruction=".", max_prompt_tokens=4, max_response_tokens=4)
CONFIG: Final = GeneratorConfig(
    lora=LoraConfig(rank=8, target_modules=["o_proj", "down_proj"]),
    steps=STEPS,
    expected_batch_size=NUM_CANARIES // 2,
    max_grad_norm=0.02,
    learning_rate=1e-4,
    max_batch_tokens=8192,
    precision=Precision.FLOAT32,
    prompt_loss_weight=0.0,
)
EVENT: Final = calibrate(
    [PlannedRun(proxy=ProxyKind.GENERATOR, sample_rate=1.0, steps=STEPS)],
    target_epsilon=CLAIMED_EPSILON,
    target_delta=DELTA,
).events[0]


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Units of one or more records, and the coins that say which are trained on."""

    units: list[list[PrivateRecord]]
    coins: npt.NDArray[np.bool_]

    def trained(self) -> list[PrivateRecord]:
        """Records of the units that are in."""
        pairs = zip(self.units, self.coins, strict=True)
        return [record for unit, coin in pairs if coin for record in unit]


def make_canaries(*, records_per_unit: int = 1) -> Canaries:
    """One word that no other canary has; the records of a unit say the same to several prompts."""
    rng = np.random.default_rng(7)
    units = []
    for number in range(NUM_CANARIES):
        units.append(
            [
                PrivateRecord(prompt=f"q{copy}", response=_word(number), unit_id=f"unit-{number}")
                for copy in range(records_per_unit)
            ]
        )
    return Canaries(units=units, coins=rng.random(NUM_CANARIES) < 0.5)


def noisy_gradients(
    records: list[PrivateRecord], *, base_folder: Path, randomness: Randomness | None = None
) -> FloatArray:
    """Train as a client does, with the noise that the claim needs; sum what each step gave away."""
    with _recorded() as gradients:
        train_generator(
            records,
            base_folder=base_folder,
            config=CONFIG,
            records_config=RECORDS,
            plan=DpSgdPlan(
                noise_multiplier=EVENT.noise_multiplier,
                sample_rate=1.0,
                expected_batch_size=CONFIG.expected_batch_size,
                steps=STEPS,
                max_grad_norm=CONFIG.max_grad_norm,
            ),
            randomness=randomness or Randomness(),
        )
    assert len(gradients) == STEPS
    return np.sum(gradients, axis=0)


def attack(gradient: FloatArray, canaries: Canaries, *, base_folder: Path) -> AuditBound:
    """Bound ε by how far a gradient contains those of the canaries."""
    model = attach_lora(load_causal_lm(base_folder), lora_shape(CONFIG), seed=ADAPTER_SEED)
    freeze_a(model)
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
    scores = gradient_shares(
        gradients=generator_gradients(model, chats, config=CONFIG), update=-gradient
    )
    return audit_bound(scores, canaries.coins.tolist(), delta=DELTA, significance=0.05)


def build_wordy_model(folder: Path) -> Path:
    """A tiny model, wide and with a word for each canary, so that their gradients differ."""
    build_tiny_model(folder, hidden_size=256)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([_word(number) for number in range(NUM_CANARIES)])
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def _word(number: int) -> str:
    return f"<w{number}>"


@contextmanager
def _recorded() -> Iterator[list[FloatArray]]:
    gradients: list[FloatArray] = []
    step = proxy_optimizer.ProxyOptimizer.step

    def recording(
        self: proxy_optimizer.ProxyOptimizer, gradient: torch.Tensor, *, number: int
    ) -> None:
        gradients.append(gradient.numpy().astype(np.float32))
        step(self, gradient, number=number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy_optimizer.ProxyOptimizer, "step", recording)
        yield gradients
