"""Is the dtype that `auto` takes the faster one of this machine?

A step of DP training of the generator proxy as the product makes it, and scoring as the server's
stage does it, each in bfloat16 and in float32; SmolLM2-135M, one core. What `auto` takes is judged
against the other: bfloat16 where the core has instructions for it, float32 where each product in
bfloat16 would be emulated. Where there is an accelerator it is measured instead.

Run: python benchmarks/dtype.py   (one core, three minutes with bfloat16, twelve without)
"""

from __future__ import annotations

import harness  # first: it sets the number of threads

# isort: split
from functools import partial

import dp_step
import scoring
import torch
from real_records import source_name

from lm.devices import fastest_dtype

DEVICE = harness.device()
FASTEST = fastest_dtype(DEVICE)
(OTHER,) = {torch.bfloat16, torch.float32} - {FASTEST}


def main() -> None:
    works = {"DP step": step, "scoring": scores}
    pairs = [(f"{name}, {_name(FASTEST)}", f"{name}, {_name(OTHER)}") for name in works]
    harness.run(
        harness.Benchmark(
            name="dtype",
            variants={
                f"{name}, {_name(dtype)}": partial(work, dtype)
                for name, work in works.items()
                for dtype in (FASTEST, OTHER)
            },
            schedule=[name for ours, other in pairs for name in (ours, other, ours)],
            time_targets=[
                harness.Target(variant=ours, baseline=other, bound=1.0) for ours, other in pairs
            ],
            settings={
                "records": source_name(),
                "num_records": dp_step.NUM_RECORDS,
                "num_prompts": scoring.NUM_PROMPTS,
                "num_candidates": scoring.NUM_CANDIDATES,
                "base_model": "smollm2-135m",
                "auto": _name(FASTEST),
            },
        )
    )


def step(dtype: torch.dtype) -> harness.Work:
    """Return a step of DP training with the base in a dtype."""
    return dp_step.private_step(dp_step.generator_task(dp_step.ATTENTION, dtype=dtype))


def scores(dtype: torch.dtype) -> harness.Work:
    """Return scoring with both models in a dtype."""
    return scoring.ours(dtype=dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
