"""What a client's proxies read."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lm.adapter_shapes import expected_adapter_shapes
from lm.encoding import encode_chat
from lm.likelihood import response_nll_sums
from lm.loading import load_causal_lm, load_tokenizer
from server_side.proxies import ClientProxies
from tests.support.fake_proxies import no_progress
from tests.support.releases import LORA
from tests.support.tiny_models import build_tiny_model


def make_proxies(base: Path, work_folder: Path) -> ClientProxies:
    """Return a client whose generator has random weights, and reads eight tokens of a text."""
    shapes = expected_adapter_shapes(base, LORA, has_reward_head=False)
    rng = np.random.default_rng(0)
    release = SimpleNamespace(
        client_name="north",
        instruction="Help.",
        lora=LORA,
        weights={name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()},
    )
    return ClientProxies(
        release,  # type: ignore[arg-type]
        release,  # type: ignore[arg-type]
        base_folder=base,
        work_folder=work_folder,
        max_prompt_tokens=8,
        max_response_tokens=8,
    )


def test_a_long_prompt_is_cut_alike_before_it_is_answered_and_before_it_is_scored(
    tmp_path: Path,
) -> None:
    """Uncut it might not fit into the model, and a reward would judge another question."""
    base = build_tiny_model(tmp_path / "model")
    proxies = make_proxies(base, tmp_path / "work")
    prompt = "How is it? " * 5000

    scored = encode_chat(
        load_tokenizer(base), instruction="Help.", prompt=prompt, max_prompt_tokens=8
    )

    assert proxies.response_prefix(prompt) == scored.response_prefix


def test_token_losses_are_those_of_the_base_model_or_of_the_generator(tmp_path: Path) -> None:
    """With the adapter they are what the perplexities say; without, what the base model says."""
    base = build_tiny_model(tmp_path / "model")
    proxies = make_proxies(base, tmp_path / "work")
    pairs = [("How is it?", "Rest."), ("And now?", "Drink water, and rest a while longer at home.")]
    chats = [
        encode_chat(
            load_tokenizer(base), instruction="Help.", prompt=prompt, response=response,
            max_prompt_tokens=8, max_response_tokens=8,
        )
        for prompt, response in pairs
    ]  # fmt: skip

    untuned, tuned = (
        proxies.token_losses(
            pairs, with_adapter=with_adapter, max_batch_tokens=512, on_progress=no_progress
        )
        for with_adapter in (False, True)
    )
    said = proxies.perplexities(pairs, max_batch_tokens=512, on_progress=no_progress)

    model = load_causal_lm(base, dtype=torch.bfloat16)
    assert [nll for nll, _ in untuned] == pytest.approx(response_nll_sums(model, chats))
    assert [math.exp(nll / size) for nll, size in tuned] == pytest.approx(said)
    assert untuned != tuned
    assert [size for _, size in tuned] == [c.response_span[1] - c.response_span[0] for c in chats]
