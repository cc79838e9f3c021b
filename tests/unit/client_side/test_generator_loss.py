"""The generator's loss: how prompt, response and the tokens that end them weigh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client_side.generator import GeneratorLoss
from lm.encoding import EncodedChat
from lm.loading import load_causal_lm

CHAT = EncodedChat(
    prefix_ids=(1, 5, 6),
    prompt_ids=(10, 11, 12),
    prompt_end_ids=(2,),
    middle_ids=(7, 8),
    response_ids=(20, 21, 22, 23),
    end_ids=(2,),
)


def token_losses(folder: Path, chat: EncodedChat) -> torch.Tensor:
    """Return the loss of every token but the first, from full logits."""
    ids = torch.tensor(chat.input_ids)
    with torch.no_grad():
        logits = load_causal_lm(folder)(input_ids=ids[None]).logits[0].double()
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")


@pytest.mark.parametrize("weight", [1.0, 0.5, 8.0])
def test_an_end_weighs_as_many_times_as_it_is_told(tiny_llama: Path, weight: float) -> None:
    losses = token_losses(tiny_llama, CHAT)
    prompt, response = losses[2:6], losses[8:13]
    prompt_weights = torch.tensor([1.0, 1.0, 1.0, weight])
    response_weights = torch.tensor([1.0, 1.0, 1.0, 1.0, weight])
    expected = 0.3 * (prompt * prompt_weights).sum() / prompt_weights.sum()
    expected += 0.7 * (response * response_weights).sum() / response_weights.sum()

    loss = GeneratorLoss(prompt_loss_weight=0.3, end_token_weight=weight)
    [found], _ = loss(load_causal_lm(tiny_llama), [[CHAT]])

    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_a_response_that_was_cut_has_no_end_to_weigh(tiny_llama: Path) -> None:
    cut = replace(CHAT, end_ids=())
    model = load_causal_lm(tiny_llama)

    [plain], _ = GeneratorLoss(prompt_loss_weight=0.0)(model, [[cut]])
    [weighed], _ = GeneratorLoss(prompt_loss_weight=0.0, end_token_weight=8.0)(model, [[cut]])

    assert float(weighed) == float(plain)
