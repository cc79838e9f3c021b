"""How likely a model finds given tokens: negative log-likelihoods and perplexities.

The head and the loss run on the needed tokens only and in chunks, so that the logits of a large
vocabulary never stand in memory for a whole batch.

Shapes: `B` sequences, `T` tokens, `H` hidden size, `V` vocabulary, `M` needed tokens of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lm.encoding import EncodedChat, pad_right
from lm.errors import ScoringError
from lm.prefix_cache import response_states

_CHUNK_LOGITS = 2**23
"""Logits that stand in memory at once on a processor: 32 MiB in float32, 55 tokens of a vocabulary
of 152k. More of them leave its caches between one step of the arithmetic and the next, and take
half as long again (docs/performance.md)."""
_ACCELERATOR_FACTOR = 4
"""How many times as many an accelerator takes, which wants large products more."""


def response_perplexities(
    model: nn.Module,
    chats: Sequence[EncodedChat],
    *,
    max_batch_tokens: int = 2048,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return exp of the mean negative log-likelihood of each chat's response tokens.

    Args:
        model: Causal language model, with or without an adapter.
        chats: Chats with a response; the token that ends it counts where it is there.
        max_batch_tokens: Tokens, padding included, that go through the model at once.
        on_progress: Told how many chats are done, of how many.

    Returns:
        One perplexity a chat, in the order of `chats`.

    Raises:
        ScoringError: A perplexity is not a finite number.
    """
    sums = response_nll_sums(
        model, chats, max_batch_tokens=max_batch_tokens, on_progress=on_progress
    )
    perplexities = []
    for chat, nll in zip(chats, sums, strict=True):
        start, stop = chat.response_span
        perplexities.append(math.exp(min(nll / max(1, stop - start), 700.0)))
    return perplexities


def response_nll_sums(
    model: nn.Module,
    chats: Sequence[EncodedChat],
    *,
    max_batch_tokens: int = 2048,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the summed negative log-likelihood, in nats, of each chat's response tokens.

    Args:
        model: Causal language model in evaluation mode, with or without an adapter.
        chats: Chats whose response may be empty; the token that ends it counts where it is there.
        max_batch_tokens: Tokens, padding included, that go through the model at once.
        on_progress: Told how many chats are done, of how many.

    Returns:
        One sum a chat, in the order of `chats`; 0 where no token is counted.

    Raises:
        ScoringError: A sum is not a finite number.
    """
    sums = [0.0] * len(chats)
    done = 0
    backbone, head = backbone_and_head(model)
    with torch.inference_mode():
        for batch in response_states(backbone, chats, max_batch_tokens):
            is_token = batch.is_token
            # The state before a token predicts it.
            nll = frozen_head_nll(batch.states[:, :-1][is_token], head, batch.ids[is_token])
            rows = is_token.nonzero()[:, 0]
            totals = torch.zeros(len(batch.indices), device=nll.device).index_add_(0, rows, nll)
            for index, total in zip(batch.indices, totals.tolist(), strict=True):
                sums[index] = total
            done += len(batch.indices)
            if on_progress:
                on_progress(done, len(chats))
    if not all(map(math.isfinite, sums)):
        raise ScoringError(
            "Expected finite log-likelihoods, found one that is not. The model's weights are "
            "broken; train or load them again."
        )
    return sums


def span_nll(
    model: nn.Module, sequences: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the negative log-likelihood of each token in a span of each sequence.

    Args:
        model: Causal language model, with or without an adapter; gradients flow to its hidden
            states, the head is taken as frozen.
        sequences: Token ids, B of them.
        spans: First and last-plus-one position of the wanted tokens; never starts at 0.

    Returns:
        Losses, (M,) float32, and the sequence that each belongs to, (M,) int64.
    """
    backbone, head = backbone_and_head(model)
    device = head.weight.device
    input_ids = pad_right(sequences, pad_id=0).to(device)  # (B, T)
    hidden = backbone(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, H)
    rows = torch.cat([torch.full((stop - start,), b) for b, (start, stop) in enumerate(spans)])
    columns = torch.cat([torch.arange(start, stop) for start, stop in spans])
    rows, columns = rows.to(device), columns.to(device)
    needed = hidden[rows, columns - 1]  # (M, H): the state before a token predicts it
    return frozen_head_nll(needed, head, input_ids[rows, columns]), rows


def backbone_and_head(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Return the decoder and the output head of a causal model, also below PEFT's wrapping."""
    base: Any = model  # transformers and PEFT models say what they can at run time only
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    return base.get_decoder(), base.get_output_embeddings()


def frozen_head_nll(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy through a frozen output head, chunk by chunk.

    The gradient with respect to the hidden states is computed beside the loss, while a chunk's
    logits are at hand; neither logits nor their gradient outlive the chunk.

    Args:
        hidden: States before each target, (M, H); rounded to the head's type for its product.
        head: Frozen output projection, V × H, no bias.
        targets: Token ids, (M,).

    Returns:
        Loss of each target in nats, (M,) float32.
    """
    losses: torch.Tensor = _FrozenHeadNll.apply(hidden, head.weight, targets)  # type: ignore[no-untyped-call]
    return losses


def chunk_tokens(vocabulary_size: int, device: torch.device) -> int:
    """Return for how many tokens at once logits are computed.

    Args:
        vocabulary_size: Logits of one token, V.
        device: Where the head's weights lie; an accelerator takes more at once.

    Returns:
        At least 1, however large the vocabulary.
    """
    factor = 1 if device.type == "cpu" else _ACCELERATOR_FACTOR
    return max(1, factor * _CHUNK_LOGITS // vocabulary_size)


class _FrozenHeadNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        needs_grad = hidden.requires_grad
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        grads = torch.empty_like(hidden) if needs_grad else None
        size = chunk_tokens(len(weight), weight.device)
        for start in range(0, len(targets), size):
            part = slice(start, start + size)
            states, picked = hidden[part], targets[part, None]
            # (m, V); changed in place from here on
            logits = (states.to(weight.dtype) @ weight.T).float()
            # bfloat16 rounds a logit of 20 by as much as 0.06 nats. The wanted one
            # decides the loss, and by itself it costs next to nothing.
            exact = (states.float() * weight[targets[part]].float()).sum(dim=-1, keepdim=True)
            logits.scatter_(1, picked, exact)
            logits -= logits.amax(dim=-1, keepdim=True)
            wanted = logits.gather(1, picked)
            sums = logits.exp_().sum(dim=-1, keepdim=True)
            losses[part] = (sums.log() - wanted)[:, 0]
            if grads is not None:
                logits /= sums  # softmax, and minus one-hot it is the gradient
                logits.scatter_add_(1, picked, -torch.ones_like(wanted))
                grads[part] = logits.to(weight.dtype) @ weight
        if grads is not None:
            ctx.save_for_backward(grads)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grads,) = ctx.saved_tensors
        return grads * grad_losses[:, None].to(grads.dtype), None, None
