"""Attacks on what a client released: a score for each canary, higher where it was likelier in.

The attacker knows everything but the coins: base model, settings, canaries, and every released
byte. Weights are attacked twice, by what the tuned model says of a canary, and by how far the
released update points along the canary's own gradient, which asks nothing of the model and is
mostly the stronger of the two. Text is attacked by those who see nothing else.

Shapes: `m` canaries, `D` released weights that moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client_side.config import GeneratorConfig, RewardProxyConfig
from client_side.generator import ADAPTER_SEED, GeneratorLoss
from lm.adapter_shapes import LoraSpec, Tensors
from lm.adapters import attach_lora, freeze_a, load_adapter_tensors
from lm.devices import resolve_dtype
from lm.encoding import EncodedChat
from lm.likelihood import response_nll_sums
from lm.loading import load_causal_lm
from lm.packing import PackedRow
from lm.reward_head import (
    build_reward_model,
    load_reward_model,
    load_reward_tensors,
    rewards_of,
    score_chats,
)
from protocol.errors import ConfigurationError

FloatArray = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]

_MAX_GRADIENT_CELLS = 400_000_000
"""Canaries × weights held at once: 1.6 GB in float32."""

_RIDGE = 1.0
"""Ridge of the decorrelation, in units of a canary's squared (unit) gradient. Less would divide by
directions that hardly any canary has, and so let noise through."""


def likelihood_scores(
    chats: Sequence[EncodedChat],
    *,
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    start: Tensors | None,
) -> list[float]:
    """Score canaries by how much likelier training made them to the generator proxy.

    Args:
        chats: The canaries.
        base_folder: Folder of the base model.
        tensors: Released tensors of the generator proxy.
        lora: Shape of its adapter.
        start: Public tensors that it started from; None for a fresh adapter, which is the base
            model.

    Returns:
        Gain in log-likelihood of each response, in nats, (m,).
    """
    model = attach_lora(load_causal_lm(base_folder), lora, seed=ADAPTER_SEED)
    if start is not None:
        load_adapter_tensors(model, start)
    before = response_nll_sums(model, chats)
    load_adapter_tensors(model, tensors)
    after = response_nll_sums(model, chats)
    return [a - b for a, b in zip(before, after, strict=True)]


def reward_scores(
    chats: Sequence[EncodedChat],
    *,
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    start: Tensors | None,
) -> list[float]:
    """Score canaries by how much reward training gave them.

    Args:
        chats: The canaries.
        base_folder: Folder of the base model.
        tensors: Released tensors of the reward proxy.
        lora: Shape of its adapter.
        start: Public tensors that it started from; None for a fresh one, which rewards nothing.

    Returns:
        Gain in reward of each, (m,).
    """
    model = load_reward_model(base_folder, tensors, lora, dtype=torch.float32)
    after = score_chats(model, chats)
    if start is None:
        return after
    load_reward_tensors(model, start)
    return [a - b for a, b in zip(after, score_chats(model, chats), strict=True)]


def generator_gradient_scores(
    chats: Sequence[EncodedChat],
    *,
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    start: Tensors | None,
    config: GeneratorConfig,
    on_progress: OnProgress | None = None,
) -> list[float]:
    """Score canaries by how far the generator's update went along their own gradients.

    Args:
        chats: The canaries.
        base_folder: Folder of the base model.
        tensors: Released tensors of the generator proxy.
        lora: Shape of its adapter.
        start: Public tensors that it started from; None for a fresh adapter.
        config: The client's settings, which its attacker is assumed to know.
        on_progress: Told how many gradients are done, of how many.

    Returns:
        Share of each canary in the update, decorrelated from the others, (m,).
    """
    base = load_causal_lm(base_folder, dtype=resolve_dtype(config.precision, "cpu"))
    model = attach_lora(base, lora, seed=ADAPTER_SEED)
    if start is not None:
        load_adapter_tensors(model, start)
    if config.lora.freeze_a:
        freeze_a(model)
    parameters = trained_parameters(model)
    gradients = generator_gradients(model, chats, config=config, on_progress=on_progress)
    before = _flat([parameter.detach() for parameter in parameters])
    load_adapter_tensors(model, tensors)
    return gradient_shares(
        gradients=gradients, update=_flat([p.detach() for p in parameters]) - before
    )


def generator_gradients(
    model: nn.Module,
    chats: Sequence[EncodedChat],
    *,
    config: GeneratorConfig,
    on_progress: OnProgress | None = None,
) -> FloatArray:
    """Compute what each canary would add to a step of the generator's training, before the clip.

    Args:
        model: The generator as it stands.
        chats: The canaries.
        config: The client's settings.
        on_progress: Told how many gradients are done, of how many.

    Returns:
        Gradients, (m, D).
    """
    loss = GeneratorLoss(prompt_loss_weight=config.prompt_loss_weight)
    return _gradients(
        chats,
        trained_parameters(model),
        lambda chat: loss(model, [[chat]])[0].sum(),
        on_progress=on_progress,
    )


def reward_gradient_scores(
    chats: Sequence[EncodedChat],
    *,
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    start: Tensors | None,
    config: RewardProxyConfig,
    on_progress: OnProgress | None = None,
) -> list[float]:
    """Score canaries by how far the reward proxy's update went towards rewarding them.

    A fresh head is zero, where the adapter has no gradient at all, so gradients are taken at the
    released weights. What the canary was paired with is not known; its own side is.

    Args:
        chats: The canaries.
        base_folder: Folder of the base model.
        tensors: Released tensors of the reward proxy.
        lora: Shape of its adapter.
        start: Public tensors that it started from; None for a fresh adapter and a zero head.
        config: The client's settings.
        on_progress: Told how many gradients are done, of how many.

    Returns:
        Share of each canary in the update, decorrelated from the others, (m,).
    """
    model = build_reward_model(
        base_folder, lora, seed=ADAPTER_SEED, dtype=resolve_dtype(config.precision, "cpu")
    )
    if start is not None:
        load_reward_tensors(model, start)
    if config.lora.freeze_a:
        freeze_a(model.adapted)
    parameters = trained_parameters(model)
    before = _flat([parameter.detach() for parameter in parameters])
    load_reward_tensors(model, tensors)

    def negative_reward(chat: EncodedChat) -> torch.Tensor:
        response = chat.response_ids + chat.end_ids
        row = PackedRow(prefix=chat.response_prefix, tails=(response,), members=(0,))
        return -rewards_of(model, [row]).sum()

    gradients = _gradients(chats, parameters, negative_reward, on_progress=on_progress)
    return gradient_shares(
        gradients=gradients, update=_flat([p.detach() for p in parameters]) - before
    )


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return what the client trains, in the order in which the optimiser has it."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_shares(*, gradients: FloatArray, update: FloatArray) -> list[float]:
    """Say how much of a descent step each canary accounts for.

    Where all canaries point together the update tells nothing about one of them, so that part is
    taken out of it; ridge regression then keeps a canary from being blamed for its neighbours.

    Args:
        gradients: Gradient of each canary's loss, (m, D).
        update: Where the weights went, (D,).

    Returns:
        Share of each canary, (m,); the unit is arbitrary.
    """
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    directions = gradients.astype(np.float64) / np.maximum(norms, 1e-12)  # (m, D)
    descent = -update.astype(np.float64)
    total = directions.sum(axis=0)
    descent -= (descent @ total) / max(float(total @ total), 1e-12) * total
    gram = directions @ directions.T  # (m, m)
    shares: list[float] = np.linalg.solve(
        gram + _RIDGE * np.eye(len(gram)), directions @ descent
    ).tolist()
    return shares


def _gradients(
    chats: Sequence[EncodedChat],
    parameters: Sequence[nn.Parameter],
    loss_of: Callable[[EncodedChat], torch.Tensor],
    *,
    on_progress: OnProgress | None,
) -> FloatArray:
    """Give the gradient of each canary's loss, (m, D)."""
    num_weights = sum(parameter.numel() for parameter in parameters)
    if num_weights * len(chats) > _MAX_GRADIENT_CELLS:
        raise ConfigurationError(
            f"Expected at most {_MAX_GRADIENT_CELLS:.0e} gradient values at once, got "
            f"{len(chats)} canaries with {num_weights} trained weights. Lower num_canaries or the "
            "adapter's rank."
        )
    gradients = np.empty((len(chats), num_weights), dtype=np.float32)
    for index, chat in enumerate(chats):
        gradients[index] = _flat(torch.autograd.grad(loss_of(chat), parameters))
        if on_progress:
            on_progress(index + 1, len(chats))
    return gradients


def _flat(parts: Sequence[torch.Tensor]) -> FloatArray:
    return torch.cat([part.flatten().float() for part in parts]).numpy()
