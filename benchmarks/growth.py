"""Does time grow linearly, and memory not at all, with the size of a job?

Doubles in turn: records drawn for DP training; prompts, candidates and tokens of sampling and
scoring. The exponent is the slope of log time over log size. Texts are drawn so hot that none ends
early, so that the number of tokens is what the size says. Memory: peak over prompts, beyond the
number that fills a batch.

Run: python benchmarks/growth.py   (one core, about four minutes)
"""

from __future__ import annotations

import harness  # first: it sets the number of threads

# isort: split
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from real_records import read_chats, source_name

from client_side.config import DpTrainingConfig
from client_side.dp_sgd import DpSgdPlan, DpSgdTask, train_dp_sgd
from client_side.generator import GeneratorLoss
from client_side.randomness import Randomness
from lm.adapters import attach_lora
from lm.devices import fastest_dtype
from lm.encoding import EncodedChat
from lm.likelihood import response_perplexities
from lm.loading import load_causal_lm
from lm.model_folders import resolve_base_model
from lm.sampling import Sampler, SamplingParams
from lm.sampling_openvino import OpenVinoSampler
from lm.sampling_transformers import TransformersSampler
from protocol.artifacts import LoraShape

MAX_EXPONENT = 1.1
MAX_MEMORY_GROWTH = 1.1
NUM_DOUBLINGS = 3
HOT = SamplingParams(max_new_tokens=24, num_candidates=4, top_p=1.0, temperature=4.0)
SMALLEST = {"records drawn": 3, "prompts": 3, "candidates": 2, "tokens": 12}

FOLDER = resolve_base_model("smollm2-135m")
CACHE = Path(tempfile.gettempdir()) / "rewardds-benchmarks"
DETAILS: dict[str, list[dict[str, float]]] = {}
harness.imports_are_done()


def main() -> None:
    few, many = "24 prompts", "96 prompts"
    harness.run(
        harness.Benchmark(
            name="growth",
            variants={few: lambda: sample_and_score(24), many: lambda: sample_and_score(96)},
            schedule=[],
            memory_targets=[harness.Target(variant=many, baseline=few, bound=MAX_MEMORY_GROWTH)],
            returns_blocks=True,
            extra_claims=exponents,
            settings={
                "records": source_name(),
                "base_model": "smollm2-135m",
                "smallest_sizes": SMALLEST,
                "num_doublings": NUM_DOUBLINGS,
                "measured": DETAILS,
            },
        )
    )


def exponents() -> list[dict[str, object]]:
    """Time each size and return one claim for each that is doubled."""
    claims = []
    with opened_stage() as stage:
        steps: dict[str, Callable[[int], object]] = {
            "records drawn": train,
            "prompts": lambda n: stage(n, HOT),
            "candidates": lambda n: stage(4, replace(HOT, num_candidates=n)),
            "tokens": lambda n: stage(4, replace(HOT, max_new_tokens=n)),
        }
        for name, step in steps.items():
            sizes = [SMALLEST[name] * 2**k for k in range(NUM_DOUBLINGS + 1)]
            step(sizes[0])
            seconds = [_timed(step, n) for n in sizes]
            DETAILS[name] = [
                {"size": n, "seconds": round(s, 3)} for n, s in zip(sizes, seconds, strict=True)
            ]
            print(f"  {name}: {DETAILS[name]}", file=sys.stderr, flush=True)
            slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
            target = harness.Target(variant=name, baseline="linear", bound=MAX_EXPONENT)
            claims.append(harness.claim("exponent of time", target, slope))
    return claims


def train(num_records: int) -> None:
    """Take one DP step over so many records."""
    units = [[chat] for chat in records(num_records)]
    task = DpSgdTask(
        model=_trainable(),
        units=units,
        unit_loss=GeneratorLoss(prompt_loss_weight=0.5),
        unit_size=lambda unit: (len(unit), len(unit[0].input_ids)),
        probe=units[:2],
    )
    plan = DpSgdPlan(
        noise_multiplier=0.6,
        sample_rate=0.5,
        expected_batch_size=float(num_records),
        steps=1,
        max_grad_norm=0.1,
    )
    train_dp_sgd(
        task,
        plan=plan,
        batches=[np.arange(num_records)],
        config=DpTrainingConfig(steps=1, max_batch_tokens=1024),
        randomness=Randomness(seed=0),
    )


@contextmanager
def opened_stage() -> Iterator[Callable[[int, SamplingParams], None]]:
    """Load a sampler and a model; yield what samples and scores so many prompts."""
    sampler = OpenVinoSampler.open(FOLDER, num_threads=1, cache_folder=CACHE)
    model = load_causal_lm(FOLDER, dtype=fastest_dtype("cpu"))
    try:
        yield lambda count, params: _sample_and_score(sampler, model, count, params)
    finally:
        sampler.close()


def sample_and_score(num_prompts: int) -> harness.Work:
    """Return sampling by the engine that runs everywhere, and scoring, for the peak of memory."""
    sampler = TransformersSampler.open(FOLDER, num_threads=1)
    model = load_causal_lm(FOLDER, dtype=fastest_dtype("cpu"))
    params = replace(HOT, max_new_tokens=4)
    return lambda: _sample_and_score(sampler, model, num_prompts, params)


def records(count: int) -> list[EncodedChat]:
    """Return encoded records, all about as long as the limits allow."""
    chats = read_chats(FOLDER, 4 * count, max_prompt_tokens=48, max_response_tokens=64)
    return sorted(chats, key=lambda chat: -len(chat.input_ids))[:count]


def _sample_and_score(
    sampler: Sampler, model: torch.nn.Module, count: int, params: SamplingParams
) -> None:
    chats = records(count)
    drawn = sampler.sample([chat.response_prefix for chat in chats], params, seed=1)
    answered = [
        replace(chat, response_ids=completion.token_ids)
        for chat, own in zip(chats, drawn, strict=True)
        for completion in own
    ]
    response_perplexities(model, answered, max_batch_tokens=2048)


def _trainable() -> torch.nn.Module:
    lora = LoraShape(
        rank=16,
        alpha=16.0,
        target_modules=("q_proj", "v_proj"),
        num_upper_layers=None,
        use_rslora=False,
    )
    base = load_causal_lm(FOLDER, dtype=fastest_dtype("cpu"))
    model: torch.nn.Module = attach_lora(base, lora, seed=0)
    return model


def _timed(step: Callable[[int], object], size: int) -> float:
    start = time.process_time()
    step(size)
    return time.process_time() - start


if __name__ == "__main__":
    main()
