"""How much faster is scoring than one candidate at a time in float32?

Reward and perplexity of 6 prompts × 6 candidates, SmolLM2-135M with adapters of rank 16, one core.
`one by one` is how the published implementation scores: float32, a forward pass for each candidate,
logits of every token. `ours` is what the server's stage calls: bfloat16 where the core has it, a
prompt read once for all its candidates, head on response tokens only. Scores must agree: the claims
include how far they may lie apart, as the largest difference over the spread of the scores. Where
there is an accelerator it is measured instead, on 60 prompts.

Run: python benchmarks/scoring.py   (one core, about four minutes; an accelerator, under a minute)
"""

from __future__ import annotations

import harness  # first: it sets the number of threads

# isort: split
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from real_records import read_texts, source_name
from torch.nn import functional

from lm.adapter_shapes import REWARD_HEAD, Tensors, expected_adapter_shapes
from lm.adapters import load_adapter
from lm.devices import fastest_dtype
from lm.encoding import EncodedChat, encode_chat
from lm.likelihood import response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import resolve_base_model
from lm.reward_head import load_reward_model, score_chats
from protocol.artifacts import LoraShape

DEVICE = harness.device()
IS_CPU = DEVICE == "cpu"
NUM_PROMPTS = 6 if IS_CPU else 60
NUM_CANDIDATES = 6
MAX_BATCH_TOKENS = 2048 if IS_CPU else 65_536
TOLERANCE = 0.1
"""Largest difference of a score ÷ standard deviation of that score over the candidates."""
LORA = LoraShape(
    rank=16,
    alpha=16.0,
    target_modules=("q_proj", "v_proj"),
    num_upper_layers=None,
    use_rslora=False,
)

FOLDER = resolve_base_model("smollm2-135m")
SCORES: dict[str, tuple[list[float], list[float]]] = {}
"""Rewards and perplexities of the last run of each variant."""
harness.imports_are_done()


def main() -> None:
    harness.run(
        harness.Benchmark(
            name="scoring",
            variants={"ours": ours, "one by one": one_by_one},
            schedule=["ours", *["one by one", "ours"] * 2],
            time_targets=[
                harness.Target(variant="ours", baseline="one by one", bound=3.0, is_speedup=True)
            ],
            extra_claims=score_differences,
            settings={
                "records": source_name(),
                "num_prompts": NUM_PROMPTS,
                "num_candidates": NUM_CANDIDATES,
                "max_batch_tokens": MAX_BATCH_TOKENS,
                "base_model": "smollm2-135m",
                "tolerance": TOLERANCE,
            },
        )
    )


def ours(*, dtype: torch.dtype | None = None) -> harness.Work:
    """Return scoring as the server's stage does it, both models loaded beforehand."""
    chats = candidates()
    dtype = dtype or fastest_dtype(DEVICE)
    reward_model = load_reward_model(
        FOLDER, adapter(has_reward_head=True), LORA, dtype=dtype, device=DEVICE
    )
    base = load_causal_lm(FOLDER, dtype=dtype, device=DEVICE)
    generator = load_adapter(base, adapter(has_reward_head=False), LORA)

    def work() -> None:
        SCORES["ours"] = (
            score_chats(reward_model, chats, max_batch_tokens=MAX_BATCH_TOKENS),
            response_perplexities(generator, chats, max_batch_tokens=MAX_BATCH_TOKENS),
        )

    return work


def one_by_one() -> harness.Work:
    """Return scoring of each candidate by itself in float32, logits of every token."""
    chats = candidates()
    reward_model = load_reward_model(
        FOLDER, adapter(has_reward_head=True), LORA, dtype=torch.float32, device=DEVICE
    )
    base = load_causal_lm(FOLDER, device=DEVICE)
    generator = load_adapter(base, adapter(has_reward_head=False), LORA)

    def work() -> None:
        rewards, perplexities = [], []
        with torch.inference_mode():
            for chat in chats:
                ids = torch.tensor([chat.input_ids], device=DEVICE)
                hidden = reward_model.decoder(input_ids=ids, use_cache=False).last_hidden_state
                rewards.append(float(reward_model.reward_head(hidden[0, -1])))
                log_probs = functional.log_softmax(generator(input_ids=ids).logits[0], dim=-1)
                start, stop = chat.response_span
                picked = log_probs[torch.arange(start - 1, stop - 1), ids[0, start:stop]]
                perplexities.append(float(picked.mean().neg().exp()))
        SCORES["one by one"] = (rewards, perplexities)

    return work


def score_differences() -> list[dict[str, object]]:
    """Return claims that both ways of scoring find the same."""
    claims = []
    for place, name in enumerate(("reward", "perplexity")):
        found, expected = SCORES["ours"][place], SCORES["one by one"][place]
        largest = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        target = harness.Target(variant="ours", baseline="one by one", bound=TOLERANCE)
        ratio = largest / statistics.stdev(expected)
        claims.append(harness.claim(f"difference of {name} ÷ spread", target, ratio))
    return claims


def adapter(*, has_reward_head: bool) -> Tensors:
    """Return an adapter that changes the model as one trained for a while does."""
    rng = np.random.default_rng(7)
    shapes = expected_adapter_shapes(FOLDER, LORA, has_reward_head=has_reward_head)
    sizes = {"lora_A": 0.03, "lora_B": 0.01, REWARD_HEAD: 0.05}
    return {
        name: rng.normal(0, next(s for part, s in sizes.items() if part in name), shape).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def candidates() -> Sequence[EncodedChat]:
    """Return prompts with six responses each: those of other records stand for sampled ones."""
    tokenizer = load_tokenizer(FOLDER)
    instruction, texts = read_texts(NUM_PROMPTS)
    return [
        encode_chat(
            tokenizer,
            instruction=instruction,
            prompt=prompt,
            response=texts[(index + k) % len(texts)][1],
            max_prompt_tokens=64,
            max_response_tokens=96,
        )
        for index, (prompt, _) in enumerate(texts)
        for k in range(NUM_CANDIDATES)
    ]


if __name__ == "__main__":
    main()
