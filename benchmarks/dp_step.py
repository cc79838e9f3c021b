"""Is a step of DP training as fast, and as small, as one without privacy?

One optimiser step over records of 192 prompt and 256 response tokens at most (the medical
settings), LoRA of rank 16, SmolLM2-135M, one core. `private` is the product's own `train_dp_sgd`;
`non-private` is the same loss on the same physical batches of the same model, with one gradient for
all; `stock` is what PEFT and transformers do unasked: float32, padded batches of 8 in the order of
the draw, logits of every token. Of the shipped records, which are shorter, a step takes more, so
that it lasts as long. Where there is an accelerator it is measured instead, on more records and
larger batches.

Run: python benchmarks/dp_step.py   (one core, about twelve minutes; an accelerator, about three)
"""

from __future__ import annotations

import harness  # first: it sets the number of threads

# isort: split
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from real_records import read_chats, source_name

from client_side import dp_sgd
from client_side.config import DpTrainingConfig, RecordsConfig
from client_side.dp_sgd import DpSgdPlan, DpSgdTask, train_dp_sgd
from client_side.generator import GeneratorLoss, probe_chats
from client_side.preferences import PreferencePair, RecordPreferences
from client_side.randomness import Randomness
from client_side.reward_proxy import PairwiseLoss, probe_preferences, record_row
from lm.adapters import attach_lora
from lm.devices import fastest_dtype
from lm.encoding import EncodedChat, pad_right
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import resolve_base_model
from lm.reward_head import build_reward_model
from protocol.artifacts import LoraShape

DEVICE = harness.device()
IS_CPU = DEVICE == "cpu"
# Noise for each weight, and the kernel held against autograd, cost as much however few the records
# of a step are. So there are as many as time allows; the default run draws 80 and 24.
SHARE = 1.0 if source_name() == "medical" else 1.75
NUM_RECORDS = round(24 * SHARE) if IS_CPU else 256
NUM_REWARD_RECORDS = round(12 * SHARE) if IS_CPU else 64
NUM_WIDE_RECORDS = round(32 * SHARE) if IS_CPU else 256
ATTENTION = ("q_proj", "v_proj")
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_BATCH_TOKENS = 1024 if IS_CPU else 16_384
STOCK_BATCH_SIZE = 8 if IS_CPU else 32
LEARNING_RATE = 1e-4

FOLDER = resolve_base_model("smollm2-135m")
harness.imports_are_done()


def main() -> None:
    variants: dict[str, Callable[[], harness.Work]] = {
        "stock": stock_step,
        "private": lambda: private_step(generator_task(ATTENTION)),
        "non-private": lambda: plain_step(generator_task(ATTENTION)),
        "private, all linear layers": lambda: private_step(generator_task(ALL_LINEAR)),
        "non-private, all linear layers": lambda: plain_step(generator_task(ALL_LINEAR)),
        "private, reward proxy": lambda: private_step(reward_task()),
        "non-private, reward proxy": lambda: plain_step(reward_task()),
    }
    pairs = [(name, f"non-{name}") for name in variants if name.startswith("private")]
    schedule = ["stock"]
    for ours, baseline in pairs:
        schedule += [ours, *[baseline, ours] * 3]
    harness.run(
        harness.Benchmark(
            name="dp_step",
            variants=variants,
            schedule=schedule,
            time_targets=[
                *(harness.Target(variant=a, baseline=b, bound=1.05) for a, b in pairs),
                harness.Target(variant="private", baseline="stock", bound=0.55),
            ],
            memory_targets=[
                *(harness.Target(variant=a, baseline=b, bound=1.05) for a, b in pairs),
                harness.Target(variant="private", baseline="stock", bound=0.5),
            ],
            returns_blocks=True,
            settings={
                "records": source_name(),
                "num_records": NUM_RECORDS,
                "num_records_all_linear": NUM_WIDE_RECORDS,
                "num_reward_records": NUM_REWARD_RECORDS,
                "base_model": "smollm2-135m",
                "lora_rank": 16,
                "max_batch_tokens": MAX_BATCH_TOKENS,
                "stock_batch_size": STOCK_BATCH_SIZE,
            },
        )
    )


def private_step(task: DpSgdTask[Any]) -> harness.Work:
    """Return a step of the product's own trainer."""
    config = DpTrainingConfig(
        steps=1, learning_rate=LEARNING_RATE, max_batch_tokens=MAX_BATCH_TOKENS
    )
    count = len(task.units)
    plan = DpSgdPlan(
        noise_multiplier=0.6,
        sample_rate=0.5,
        expected_batch_size=float(count),
        steps=1,
        max_grad_norm=0.1,
    )
    return lambda: train_dp_sgd(
        task,
        plan=plan,
        batches=[np.arange(count)],
        config=config,
        randomness=Randomness(seed=0),
    )


def plain_step(task: DpSgdTask[Any]) -> harness.Work:
    """Return a step with the same loss and physical batches, and one gradient for all records."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]

    def step() -> None:
        task.model.train()
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        drawn = np.arange(len(task.units))
        for batch in dp_sgd._physical_batches(task, drawn, MAX_BATCH_TOKENS):
            losses, _ = task.unit_loss(task.model, [task.units[i] for i in batch])
            (losses.sum() / len(task.units)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def stock_step() -> harness.Work:
    """Return a step as PEFT and transformers do it unasked."""
    chats = records(NUM_RECORDS)
    model = get_peft_model(
        load_causal_lm(FOLDER, device=DEVICE),
        LoraConfig(r=16, lora_alpha=16, target_modules=list(ATTENTION)),
    ).train()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step() -> None:
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
        for start in range(0, len(chats), STOCK_BATCH_SIZE):
            batch = chats[start : start + STOCK_BATCH_SIZE]
            ids = pad_right([chat.input_ids for chat in batch], pad_id=0).to(DEVICE)
            mask = pad_right([[1] * len(chat.input_ids) for chat in batch], pad_id=0).to(DEVICE)
            labels = ids.masked_fill(mask == 0, -100)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            (loss * len(batch) / len(chats)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def generator_task(modules: Sequence[str], *, dtype: torch.dtype | None = None) -> DpSgdTask[Any]:
    """Return the generator proxy's training on single records."""
    chats = records(NUM_RECORDS if modules == ATTENTION else NUM_WIDE_RECORDS)
    base = load_causal_lm(FOLDER, dtype=dtype or fastest_dtype(DEVICE), device=DEVICE)
    return DpSgdTask(
        model=attach_lora(base, lora(modules), seed=0),
        units=[[chat] for chat in chats],
        unit_loss=GeneratorLoss(prompt_loss_weight=0.5),
        unit_size=lambda unit: (len(unit), len(unit[0].input_ids)),
        probe=[[chat] for chat in probe_chats(load_tokenizer(FOLDER), RecordsConfig())],
    )


def reward_task() -> DpSgdTask[Any]:
    """Return the reward proxy's training; other records' responses stand for sampled ones."""
    chats = records(NUM_REWARD_RECORDS)
    pairs = tuple(PreferencePair(chosen=0, rejected=r, weight=0.5) for r in (1, 2))
    units = [
        (
            RecordPreferences(
                prefix=chat.response_prefix,
                responses=tuple(chats[(i + k) % len(chats)].response_ids for k in range(3)),
                pairs=pairs,
            ),
        )
        for i, chat in enumerate(chats)
    ]
    return DpSgdTask(
        model=build_reward_model(
            FOLDER, lora(ATTENTION), seed=0, dtype=fastest_dtype(DEVICE), device=DEVICE
        ),
        units=units,
        unit_loss=PairwiseLoss(),
        unit_size=lambda unit: (len(unit), record_row(unit[0]).length),
        probe=probe_preferences(load_tokenizer(FOLDER), RecordsConfig()),
    )


def lora(modules: Sequence[str]) -> LoraShape:
    """Return an adapter's shape."""
    return LoraShape(
        rank=16, alpha=16.0, target_modules=tuple(modules), num_upper_layers=None, use_rslora=False
    )


def records(count: int) -> list[EncodedChat]:
    """Return encoded records."""
    return read_chats(FOLDER, count, max_prompt_tokens=192, max_response_tokens=256)


if __name__ == "__main__":
    main()
