"""What public text teaches starting weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.adapters import expected_adapter_shapes, load_adapter
from lm.encoding import encode_chat
from lm.likelihood import response_perplexities
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import load_reward_model, score_chats
from protocol.artifacts import LoraShape
from protocol.errors import ConfigurationError
from protocol.ledger import ProxyKind
from server_side.config import WarmStartConfig
from server_side.warm_starting import train_start

LORA = LoraShape(
    rank=4, alpha=16.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)
RESPONSE = "Rest and drink water."


@pytest.fixture
def config(tmp_path: Path) -> WarmStartConfig:
    file = tmp_path / "public.jsonl"
    rows = [{"prompt": f"ask {n}", "response": RESPONSE} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return WarmStartConfig(
        path=str(file), steps=30, learning_rate=1e-2, max_response_tokens=24, engine="transformers"
    )


def test_the_generator_learns_the_public_text(tiny_llama: Path, config: WarmStartConfig) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    chat = encode_chat(
        tokenizer, instruction=config.instruction, prompt="ask 99", response=RESPONSE
    )

    def perplexity(steps: int) -> float:
        weights = train_start(
            ProxyKind.GENERATOR,
            LORA,
            base_folder=tiny_llama,
            config=replace(config, steps=steps),
            seed=0,
        )
        base = load_causal_lm(tiny_llama, dtype=torch.float32, device="cpu")
        return response_perplexities(load_adapter(base, weights.tensors, LORA), [chat])[0]

    assert perplexity(60) < 0.9 * perplexity(1)


def test_the_reward_learns_to_prefer_the_public_text(
    tiny_llama: Path, config: WarmStartConfig
) -> None:
    weights = train_start(ProxyKind.REWARD, LORA, base_folder=tiny_llama, config=config, seed=0)
    model = load_reward_model(tiny_llama, weights.tensors, LORA)
    tokenizer = load_tokenizer(tiny_llama)
    rng = np.random.default_rng(1)
    others = [tokenizer.decode(rng.integers(260, 500, size=12)) for _ in range(8)]
    chats = [
        encode_chat(tokenizer, instruction=config.instruction, prompt="ask 99", response=text)
        for text in (RESPONSE, *others)
    ]

    public, *rest = score_chats(model, chats)

    assert public > np.mean(rest)


@pytest.mark.parametrize("proxy", ProxyKind)
def test_weights_have_the_clients_shape_and_follow_from_the_seed(
    tiny_llama: Path, config: WarmStartConfig, proxy: ProxyKind
) -> None:
    few = replace(config, steps=2)
    first, again = (
        train_start(proxy, LORA, base_folder=tiny_llama, config=few, seed=3) for _ in range(2)
    )

    shapes = expected_adapter_shapes(tiny_llama, LORA, has_reward_head=proxy is ProxyKind.REWARD)
    assert {name: tensor.shape for name, tensor in first.tensors.items()} == shapes
    assert first == again


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("learning_rate", 0.0), ("instruction", " "), ("engine", "vllm")],
)
def test_settings_are_checked(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"warm_start.{name}"):
        WarmStartConfig(**{name: value})  # type: ignore[arg-type]
