"""Draw tokens from logits: exact top-p without sorting the vocabulary, from numbers given.

Randomness comes in as uniform numbers, one a token, so that what a text draws depends on its own
seed alone and not on the rows beside it.

Shapes: `B` rows (one a completion), `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lm.sampling import SamplingParams

# Lengths of the short list of likeliest tokens, tried in turn before the whole vocabulary.
_PRESELECTED = (256, 4096)


def draw_tokens(
    logits: torch.Tensor, uniforms: torch.Tensor, params: SamplingParams
) -> torch.Tensor:
    """Draw one token a row by inverting the distribution function at a uniform number.

    Args:
        logits: (B, V), float32; already penalised.
        uniforms: (B,), float64, in [0, 1).
        params: Temperature, top_p and greedy.

    Returns:
        (B,), int64.
    """
    if params.greedy:
        return logits.argmax(dim=-1)
    if params.temperature != 1.0:
        logits = logits / params.temperature
    if params.top_p == 1.0:
        # Nothing is cut, so the tokens need no order.
        return _invert(torch.softmax(logits, dim=-1, dtype=torch.float64), uniforms)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    pending = torch.arange(len(logits), device=logits.device)
    remaining = logits  # (B', V), those of the pending rows
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)  # (B, 1)
    vocabulary_size = logits.shape[-1]
    for width in (*(w for w in _PRESELECTED if w < vocabulary_size), vocabulary_size):
        top, ids = remaining.topk(width, dim=-1)  # (B', width), falling
        probabilities = (top.double() - log_total[pending]).exp()
        mass = probabilities.cumsum(dim=-1)
        # The nucleus is known where the list reaches top_p: what lies outside it is less likely.
        is_known = (mass[:, -1] >= params.top_p) | (width == vocabulary_size)
        # A token belongs to the nucleus while those before it have not reached top_p.
        is_outside = mass - probabilities >= params.top_p
        is_outside[:, 0] = False
        chosen = _invert(probabilities.masked_fill(is_outside, 0.0), uniforms[pending])
        drawn = ids.gather(1, chosen[:, None]).squeeze(1)
        tokens[pending[is_known]] = drawn[is_known]
        pending = pending[~is_known]
        if not len(pending):
            break
        remaining = logits[pending]
    return tokens


def penalise_repetition(
    *, logits: torch.Tensor, is_seen: torch.Tensor, penalty: float
) -> torch.Tensor:
    """Weaken the logits of tokens that were seen: divide if positive, multiply if negative.

    Args:
        logits: (B, V), float32.
        is_seen: (B, V), bool.
        penalty: 1 changes nothing; above 1 weakens.

    Reference: arXiv 1909.05858, section 4.1, with the sign handled as in transformers.
    """
    weakened = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(is_seen, weakened, logits)


def row_uniforms(
    rows: Sequence[tuple[int, int]], seeds: Sequence[int], params: SamplingParams
) -> torch.Tensor:
    """Return the uniform numbers of each row, from its prefix's own seed.

    Args:
        rows: Prefix and candidate of each row.
        seeds: Seed of each prefix.
        params: How many candidates and tokens there are.

    Returns:
        (B, max_new_tokens), float64, in [0, 1).
    """
    shape = (params.num_candidates, params.max_new_tokens)
    rng = torch.Generator()
    drawn = {
        index: torch.rand(shape, generator=rng.manual_seed(seeds[index]), dtype=torch.float64)
        for index in sorted({index for index, _ in rows})
    }
    return torch.stack([drawn[index][candidate] for index, candidate in rows])


def _invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the index at which the running sum of weights passes a uniform share of their sum."""
    running = weights.cumsum(dim=-1)
    targets = uniforms[:, None] * running[:, -1:]  # below the sum, for a uniform below 1
    indices = torch.searchsorted(running, targets, right=True)
    # Rounding may reach the sum itself: then the last token that weighs something is meant.
    last = torch.searchsorted(running, running[:, -1:].contiguous())
    return torch.minimum(indices, last).squeeze(1)
