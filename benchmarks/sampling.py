"""How much faster do our engines sample than `transformers.generate`?

16 prompts × 6 responses × 96 tokens, exact top-p 0.7, SmolLM2-135M, one core. All get the same
prompts and the same end tokens, and all stop a text at its end; `generate` gets its prompts padded
on the left, with `num_return_sequences=6`, in one call. Where there is an accelerator, the engine
over transformers is measured there, with 160 prompts and no target.

Run: python benchmarks/sampling.py   (one core, about eight minutes; an accelerator, under a minute)
"""

from __future__ import annotations

import harness  # first: it sets the number of threads

# isort: split
import tempfile
from pathlib import Path

import torch
from real_records import read_chats, source_name

from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import resolve_base_model
from lm.sampling import SamplingParams, stop_token_ids
from lm.sampling_transformers import TransformersSampler

DEVICE = harness.device()
IS_CPU = DEVICE == "cpu"
NUM_PROMPTS = 16 if IS_CPU else 160
PARAMS = SamplingParams(max_new_tokens=96, num_candidates=6, top_p=0.7)

FOLDER = resolve_base_model("smollm2-135m")
CACHE = Path(tempfile.gettempdir()) / "rewardds-benchmarks"
harness.imports_are_done()


def main() -> None:
    engines = ["openvino", "transformers"] if IS_CPU else ["transformers"]
    schedule = [*engines, "generate, float32", engines[0], "generate, bfloat16"]
    harness.run(
        harness.Benchmark(
            name="sampling",
            variants={
                "openvino": openvino,
                "transformers": transformers,
                "generate, float32": lambda: generate(torch.float32),
                "generate, bfloat16": lambda: generate(torch.bfloat16),
            },
            schedule=schedule,
            time_targets=[
                harness.Target(
                    variant=variant,
                    baseline=f"generate, {dtype}",
                    bound=bound if IS_CPU else None,
                    is_speedup=True,
                )
                for variant, dtype, bound in (
                    ("openvino", "float32", 5.0),
                    ("openvino", "bfloat16", 4.0),
                    ("transformers", "float32", 3.0),
                    ("transformers", "bfloat16", None),
                )
                if variant in schedule
            ],
            settings={
                "records": source_name(),
                "num_prompts": NUM_PROMPTS,
                "num_candidates": PARAMS.num_candidates,
                "max_new_tokens": PARAMS.max_new_tokens,
                "top_p": PARAMS.top_p,
                "base_model": "smollm2-135m",
            },
        )
    )


def openvino() -> harness.Work:
    """Return the CPU engine in its own precision (bfloat16 where the core has it)."""
    from lm.sampling_openvino import OpenVinoSampler  # is not there on every accelerator's machine

    sampler = OpenVinoSampler.open(FOLDER, num_threads=1, cache_folder=CACHE)
    return lambda: sampler.sample(prefixes(), PARAMS, seed=1)


def transformers() -> harness.Work:
    """Return the engine over transformers, in its own precision."""
    sampler = TransformersSampler.open(FOLDER, num_threads=1, device=DEVICE)
    return lambda: sampler.sample(prefixes(), PARAMS, seed=1)


def generate(dtype: torch.dtype) -> harness.Work:
    """Return transformers' own `generate` on all prompts at once."""
    tokenizer = load_tokenizer(FOLDER)
    model = load_causal_lm(FOLDER, dtype=dtype, device=DEVICE)
    stop_ids = sorted(stop_token_ids(FOLDER, tokenizer))
    rows = prefixes()
    width = max(map(len, rows))
    pad_id = tokenizer.pad_token_id
    ids = torch.tensor([[pad_id] * (width - len(r)) + list(r) for r in rows], device=DEVICE)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=DEVICE)

    def work() -> object:
        torch.manual_seed(1)
        with torch.inference_mode():
            return model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_p=PARAMS.top_p,
                top_k=0,
                temperature=1.0,
                max_new_tokens=PARAMS.max_new_tokens,
                num_return_sequences=PARAMS.num_candidates,
                eos_token_id=stop_ids,
                pad_token_id=pad_id,
            )

    return work


def prefixes() -> list[tuple[int, ...]]:
    """Return what is continued: the records' prompts in their chats."""
    chats = read_chats(FOLDER, NUM_PROMPTS, max_prompt_tokens=64, max_response_tokens=96)
    return [chat.response_prefix for chat in chats]


if __name__ == "__main__":
    main()
