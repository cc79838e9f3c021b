from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from lm import likelihood
from lm.encoding import encode_chat
from lm.errors import ScoringError
from lm.likelihood import frozen_head_nll, response_nll_sums, response_perplexities
from lm.loading import load_causal_lm, load_tokenizer

TEXTS = [("why", "so"), ("a much longer prompt than that", "and a longer response"), ("é", "x")]


def _chats(folder: Path) -> list[likelihood.EncodedChat]:
    tokenizer = load_tokenizer(folder)
    return [
        encode_chat(tokenizer, instruction="Answer.", prompt=prompt, response=response)
        for prompt, response in TEXTS
    ]


def test_response_nll_equals_full_logits_one_by_one(tiny_model: Path) -> None:
    """The oracle computes all logits of each chat alone, in float32."""
    model = load_causal_lm(tiny_model)
    chats = _chats(tiny_model)

    sums = response_nll_sums(model, chats, max_batch_tokens=200)

    for chat, found in zip(chats, sums, strict=True):
        ids = torch.tensor([chat.input_ids])
        log_probs = functional.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        start, stop = chat.response_span
        expected = -sum(float(log_probs[t - 1, ids[0, t]]) for t in range(start, stop))
        assert found == pytest.approx(expected, rel=1e-5)


def test_perplexity_is_exp_of_the_mean(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)
    chats = _chats(tiny_llama)

    perplexities = response_perplexities(model, chats)

    sums = response_nll_sums(model, chats)
    counts = [chat.response_span[1] - chat.response_span[0] for chat in chats]
    expected = [math.exp(s / n) for s, n in zip(sums, counts, strict=True)]
    assert perplexities == pytest.approx(expected)


@pytest.mark.parametrize("chunk_tokens", [1, 4, 100])
def test_frozen_head_nll_has_the_loss_and_gradient_of_cross_entropy(
    chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "_CHUNK_LOGITS", 50 * chunk_tokens + 7)
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=False).requires_grad_(False)
    hidden = torch.randn(9, 8, requires_grad=True)
    oracle_hidden = hidden.detach().clone().requires_grad_()
    targets = torch.randint(0, 50, (9,))
    weights = torch.rand(9)

    losses = frozen_head_nll(hidden, head, targets)
    (losses * weights).sum().backward()

    oracle = functional.cross_entropy(head(oracle_hidden), targets, reduction="none")
    (oracle * weights).sum().backward()
    torch.testing.assert_close(losses, oracle)
    torch.testing.assert_close(hidden.grad, oracle_hidden.grad)


def test_likelihoods_of_extreme_logits_stay_finite() -> None:
    """Logits of a thousand overflow where they are not shifted before the exponential."""
    head = nn.Linear(2, 3, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[1e3, 0.0], [-1e3, 0.0], [0.0, 1e3]]))
    hidden = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    targets = torch.tensor([1, 2])

    losses = frozen_head_nll(hidden, head, targets)
    losses.sum().backward()

    torch.testing.assert_close(losses, torch.tensor([2000.0, math.log(2.0)]))
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


def test_a_bfloat16_head_does_not_round_the_wanted_logit() -> None:
    """One of 20 would be off by up to 0.06."""
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    head.weight.copy_(torch.randn(50, 8))
    hidden = 3 * torch.randn(200, 8)
    logits = hidden.bfloat16().float() @ head.weight.float().T
    unlikely = logits.argmin(dim=-1)

    losses = frozen_head_nll(hidden.bfloat16(), head, unlikely)
    likely = frozen_head_nll(hidden.bfloat16(), head, logits.argmax(dim=-1))

    wanted = logits.gather(1, unlikely[:, None])[:, 0]
    rounded = logits.bfloat16().float()
    torch.testing.assert_close(losses, rounded.logsumexp(dim=-1) - wanted, rtol=0, atol=2e-3)
    assert bool((likely >= 0).all())


@pytest.mark.parametrize("vocabulary_size", [259, 49_152, 151_936])
def test_logits_of_any_vocabulary_keep_to_the_same_memory(
    vocabulary_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest float32 tensor that is made on the way, seen by the matmul that makes it."""
    sizes = []
    original = torch.Tensor.float

    def spy(self: torch.Tensor) -> torch.Tensor:
        sizes.append(self.numel())
        return original(self)

    monkeypatch.setattr(torch.Tensor, "float", spy)
    monkeypatch.setattr(likelihood, "_CHUNK_LOGITS", 2**20)
    head = nn.Linear(1, vocabulary_size, bias=False).requires_grad_(False)

    losses = frozen_head_nll(torch.zeros(40, 1), head, torch.arange(40))

    assert max(sizes) <= 2**20
    torch.testing.assert_close(losses, torch.full((40,), math.log(vocabulary_size)))


def test_broken_weights_are_told_rather_than_scored(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)
    model.get_output_embeddings().weight.data.fill_(math.nan)

    with pytest.raises(ScoringError, match="finite log-likelihoods"):
        response_nll_sums(model, _chats(tiny_llama))
