"""Where does DP training get the most signal for its noise?

For each kind of linear layer and each range of blocks: how far the gradients of single records
point the same way, against the noise that DP-SGD adds to as many weights. Fictional records only,
so that the answer costs no privacy.

A record's gradient g is clipped to a fixed norm, so a step's signal is proportional to the
alignment |E[g / |g|]|, and the noise to the root of the number of weights D. What decides is
alignment ÷ √D. The alignment is estimated without the bias of a finite sample, from the inner
products of different records' gradients.

Run: python benchmarks/gradient_signal.py   (two cores, about a minute)
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from rich.console import Console
from rich.table import Table

from client_side.generator import GeneratorLoss
from lm.adapters import attach_lora, freeze_a
from lm.devices import fastest_dtype
from lm.encoding import encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import resolve_base_model
from protocol.artifacts import LoraShape
from simulations.clinic import INSTRUCTION, compose_messages

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RESULT = Path(__file__).parent / "results" / "gradient_signal.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", default="smollm2-135m")
    parser.add_argument("--num-records", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    gradients = record_gradients(
        arguments.base_model, num_records=arguments.num_records, seed=arguments.seed
    )
    num_blocks = 1 + max(block for _, block in gradients)
    rows: list[dict[str, Any]] = []
    for modules in (*((name,) for name in MODULES), ("q_proj", "v_proj"), MODULES):
        for first in (0, num_blocks // 3, 2 * num_blocks // 3):
            picked = torch.cat(
                [g for (name, block), g in gradients.items() if name in modules and block >= first],
                dim=1,
            )
            rows.append({"modules": "+".join(modules), "first_block": first, **signal(picked)})
    rows.sort(key=lambda row: -float(row["signal_to_noise"]))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"settings": vars(arguments), "rows": rows}, indent=1) + "\n")
    table = Table("modules", "from block", "weights", "mean norm", "alignment", "÷ √weights × 1000")
    for row in rows:
        table.add_row(
            "all" if row["modules"] == "+".join(MODULES) else str(row["modules"]),
            str(row["first_block"]),
            f"{row['num_weights']:,}",
            f"{row['mean_norm']:.2f}",
            f"{row['alignment']:.2f}",
            f"{1000 * float(row['signal_to_noise']):.1f}",
        )
    Console().print(table)
    print(f"Written to {RESULT}.")


def record_gradients(
    base_model: str, *, num_records: int, seed: int
) -> dict[tuple[str, int], torch.Tensor]:
    """Return each layer's gradients for B of a rank-1 adapter, one row a record."""
    folder = resolve_base_model(base_model)
    tokenizer = load_tokenizer(folder)
    chats = [
        encode_chat(
            tokenizer, instruction=INSTRUCTION, prompt=message.prompt, response=message.response
        )
        for message in compose_messages(num_records, seed=seed, split="train")
    ]
    lora = LoraShape(
        rank=1, alpha=16.0, target_modules=MODULES, num_upper_layers=None, use_rslora=False
    )
    model = attach_lora(load_causal_lm(folder, dtype=fastest_dtype("cpu")), lora, seed=0)
    freeze_a(model)
    GradSampleModule(model.train(), loss_reduction="sum", strict=False)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows: dict[tuple[str, int], list[torch.Tensor]] = {}
    loss = GeneratorLoss(prompt_loss_weight=0.3)
    for start in range(0, len(chats), 5):
        losses, _ = loss(model, [[chat] for chat in chats[start : start + 5]])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()
        for name, parameter in parameters.items():
            rows.setdefault(_place(name), []).append(parameter.grad_sample.flatten(1).clone())
            parameter.grad = None
            parameter.grad_sample = None
    return {place: torch.cat(parts) for place, parts in rows.items()}


def signal(gradients: torch.Tensor) -> dict[str, float]:
    """Compare alignment with the noise on as many weights; gradients are (records, D)."""
    norms = gradients.norm(dim=1)
    units = gradients / norms[:, None]
    products = units @ units.T
    count = len(products)
    mean_product = (products.sum() - products.diag().sum()) / (count * (count - 1))
    alignment = float(mean_product.clamp(min=0).sqrt())
    return {
        "num_weights": gradients.shape[1],
        "mean_norm": float(norms.mean()),
        "alignment": alignment,
        "signal_to_noise": alignment / gradients.shape[1] ** 0.5,
    }


def _place(name: str) -> tuple[str, int]:
    match = re.search(r"\.layers\.(\d+)\..*\.(\w+_proj)\.", name)
    assert match is not None, f"an adapter where none was put: {name}"
    return match[2], int(match[1])


if __name__ == "__main__":
    main()
