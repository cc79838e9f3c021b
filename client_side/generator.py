"""Stage 3: tune the generator proxy on private records under DP.

The loss of a record is the mean loss of its own prompt tokens and of its own response tokens,
weighted; the server can so sample prompts from the generator itself and needs no private seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from client_side.config import GeneratorConfig, RecordsConfig
from client_side.dp_sgd import DpSgdPlan, DpSgdTask, train_dp_sgd
from client_side.randomness import Randomness
from client_side.records import PrivateRecord
from client_side.request_checks import lora_shape
from client_side.training_state import TrainingState
from client_side.units import group_into_units
from client_side.warm_start import AdmittedStart
from lm.adapters import adapter_tensors, attach_lora, freeze_a, load_adapter_tensors
from lm.devices import best_device, resolve_dtype
from lm.encoding import EncodedChat, encode_chat
from lm.likelihood import span_nll
from lm.loading import load_causal_lm, load_tokenizer
from protocol.artifacts import LoraShape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER_SEED = 0
"""Seed of the adapter's initial weights; public, and no source of privacy."""
_PROBE_TEXTS: Final = (
    ("What is this for?", "Two ways of computing a gradient are compared on it."),
    ("Why?", "So that none goes wrong."),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedProxy:
    """A proxy as DP-SGD left it: its tensors may leave through egress, its losses may not."""

    tensors: dict[str, npt.NDArray[np.float32]] = field(repr=False)
    """Adapter weights, and the reward head where there is one."""
    lora: LoraShape
    """Shape of the adapter."""
    private_losses: tuple[float, ...] = field(repr=False)
    """Mean loss of each step's units. Private; must not leave the client."""


def train_generator(
    records: Sequence[PrivateRecord],
    *,
    base_folder: Path,
    config: GeneratorConfig,
    records_config: RecordsConfig,
    plan: DpSgdPlan,
    randomness: Randomness,
    start: AdmittedStart | None = None,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainedProxy:
    """Tune the generator proxy.

    Args:
        records: The private records.
        base_folder: Folder of the public base model.
        config: Adapter and optimiser.
        records_config: Instruction and lengths.
        plan: The DP-SGD run, as reserved in the ledger.
        randomness: Source of sampling and noise.
        start: Public weights to start from; None starts with a fresh adapter.
        state: Where an earlier process left this very run; None begins it.
        save: Keeps the state after each step.
        on_progress: Told how many steps are done, of how many.

    Returns:
        The trained adapter.

    Privacy:
        The tensors are (ε, δ)-DP by `plan.event(ProxyKind.GENERATOR)`, which the caller must have
        reserved. Everything else about the run is private.

    Reference:
        RewardDS (arXiv 2502.18517), section 3.2; we also train on prompt tokens.
    """
    tokenizer = load_tokenizer(base_folder)
    units = group_into_units(records)
    first_step = state.num_steps if state else 0
    batches = plan.draw_batches(len(units), randomness=randomness, first_step=first_step)
    encoded = [
        [
            encode_chat(
                tokenizer,
                instruction=records_config.instruction,
                prompt=record.prompt,
                response=record.response,
                max_prompt_tokens=records_config.max_prompt_tokens,
                max_response_tokens=records_config.max_response_tokens,
            )
            for record in unit
        ]
        for unit in units
    ]
    lora = lora_shape(config)
    device = best_device()
    dtype = resolve_dtype(config.precision, device)
    base = load_causal_lm(base_folder, dtype=dtype, device=device)
    model = attach_lora(base, lora, seed=ADAPTER_SEED)
    if start:
        # Privacy: chosen before any record was read, so a constant of the mechanism. DP-SGD's
        # guarantee holds from any starting point, one that a hostile server chose included.
        load_adapter_tensors(model, start.tensors)
    if config.lora.freeze_a:
        freeze_a(model)
    losses = train_dp_sgd(
        DpSgdTask(
            model=model,
            units=encoded,
            unit_loss=GeneratorLoss(
                prompt_loss_weight=config.prompt_loss_weight,
                end_token_weight=config.end_token_weight,
            ),
            unit_size=_unit_size,
            probe=[[chat] for chat in probe_chats(tokenizer, records_config)],
        ),
        plan=plan,
        batches=batches,
        config=config,
        randomness=randomness,
        state=state,
        save=save,
        on_progress=on_progress,
    )
    return TrainedProxy(tensors=adapter_tensors(model), lora=lora, private_losses=tuple(losses))


def probe_chats(
    tokenizer: PreTrainedTokenizerBase, records_config: RecordsConfig
) -> list[EncodedChat]:
    """Return two made-up chats of unlike lengths, for a training to be checked on.

    Args:
        tokenizer: Tokenizer of the base model.
        records_config: Gives the instruction; its limits of length are not applied.
    """
    instruction = records_config.instruction
    return [
        encode_chat(tokenizer, instruction=instruction, prompt=prompt, response=response)
        for prompt, response in _PROBE_TEXTS
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorLoss:
    """Sum over a unit's records of each record's own mean token loss."""

    prompt_loss_weight: float
    """Weight of the prompt's mean; the response's is one minus it."""
    end_token_weight: float = 1.0
    """Weight within a mean of the token that ends a prompt or response ÷ that of any other."""

    def __call__(
        self, model: nn.Module, units: Sequence[Sequence[EncodedChat]]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the loss of each unit and the unit of each sequence."""
        chats = [chat for unit in units for chat in unit]
        unit_of_row = [u for u, unit in enumerate(units) for _ in unit]
        # From the prompt's first token to the response's last; the middle's template tokens
        # between them carry no weight.
        spans = [(chat.prompt_span[0], chat.response_span[1]) for chat in chats]
        nll, rows = span_nll(model, [chat.input_ids for chat in chats], spans)
        weights = torch.cat([self._token_weights(chat) for chat in chats]).to(nll.device)
        # Privacy: each record's mean is over its own tokens, so records do not couple.
        unit_of_token = torch.tensor(unit_of_row, device=nll.device)[rows]
        return torch.zeros(len(units), device=nll.device).index_add(
            0, unit_of_token, nll * weights
        ), unit_of_row

    def _token_weights(self, chat: EncodedChat) -> torch.Tensor:
        start, prompt_stop = chat.prompt_span
        response_start, stop = chat.response_span
        weights = torch.zeros(stop - start)
        prompt, response = weights[: prompt_stop - start], weights[response_start - start :]
        self._share_out(self.prompt_loss_weight, prompt, is_ended=bool(chat.prompt_end_ids))
        self._share_out(1 - self.prompt_loss_weight, response, is_ended=bool(chat.end_ids))
        return weights

    def _share_out(self, whole: float, weights: torch.Tensor, *, is_ended: bool) -> None:
        if len(weights) == 0:
            return
        weights[:] = 1.0
        if is_ended:
            weights[-1] = self.end_token_weight
        weights *= whole / weights.sum()


def _unit_size(unit: Sequence[EncodedChat]) -> tuple[int, int]:
    return len(unit), max((len(chat.input_ids) for chat in unit), default=0)
