"""Stage 4: tune the reward proxy on preference pairs under DP.

Bradley–Terry loss: −log σ(reward(chosen) − reward(rejected)), averaged over a record's pairs. All
sequences of a unit are one contribution, clipped once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from client_side.config import PreferencesConfig, RecordsConfig, RewardProxyConfig
from client_side.dp_sgd import DpSgdPlan, DpSgdTask, train_dp_sgd
from client_side.generator import ADAPTER_SEED, TrainedProxy, probe_chats
from client_side.preferences import PreferencePair, RecordPreferences, build_preferences
from client_side.randomness import Purpose, Randomness
from client_side.records import PrivateRecord
from client_side.released_generator import ReleasedGenerator
from client_side.request_checks import lora_shape
from client_side.training_state import TrainingState
from client_side.units import group_into_units
from client_side.warm_start import AdmittedStart
from client_side.working_files import merged_generator_folder
from lm.adapters import freeze_a, merge_adapter
from lm.devices import best_device, resolve_dtype
from lm.loading import load_tokenizer
from lm.packing import PackedRow
from lm.reward_head import (
    RewardModel,
    build_reward_model,
    load_reward_tensors,
    reward_tensors,
    rewards_of,
)
from lm.sampling import Sampler, SamplingEngine, open_sampler

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_reward_proxy(
    records: Sequence[PrivateRecord],
    *,
    base_folder: Path,
    generator: ReleasedGenerator,
    work_folder: Path,
    num_threads: int | None,
    config: RewardProxyConfig,
    preferences_config: PreferencesConfig,
    records_config: RecordsConfig,
    plan: DpSgdPlan,
    randomness: Randomness,
    start: AdmittedStart | None = None,
    state: TrainingState | None = None,
    save: Callable[[TrainingState], None] | None = None,
    on_sampling: Callable[[int, int], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainedProxy:
    """Sample negatives for the drawn records and tune the reward proxy on the pairs.

    Args:
        records: The private records.
        base_folder: Folder of the public base model.
        generator: The generator proxy as it was released.
        work_folder: Folder of this client for the merged generator; private to it.
        num_threads: CPU threads of the sampling engine; None takes all.
        config: Adapter, head and optimiser.
        preferences_config: Which pairs, and how to sample their machine-written side.
        records_config: Instruction and lengths.
        plan: The DP-SGD run, as reserved in the ledger.
        randomness: Source of sampling and noise.
        start: Public weights to start from; None starts with a fresh adapter and a zero head.
        state: Where an earlier process left this very run; None begins it.
        save: Keeps the state after each step.
        on_sampling: Told how many responses are sampled, of how many.
        on_progress: Told how many steps are done, of how many.

    Returns:
        The trained adapter with its scalar head.

    Privacy:
        The tensors are (ε, δ)-DP by `plan.event(ProxyKind.REWARD)`, which the caller must have
        reserved. Everything else about the run is private.

    Reference:
        RewardDS (arXiv 2502.18517), section 3.3; Bradley and Terry (1952).
    """
    units = group_into_units(records)
    first_step = state.num_steps if state else 0
    batches = plan.draw_batches(len(units), randomness=randomness, first_step=first_step)
    drawn = np.unique(np.concatenate(batches)) if batches else np.empty(0, dtype=np.int64)
    prepared = _preferences_of(
        drawn,
        units,
        base_folder=base_folder,
        generator=generator,
        work_folder=work_folder,
        num_threads=num_threads,
        preferences_config=preferences_config,
        records_config=records_config,
        seed=randomness.child(Purpose.NEGATIVES).integer(),
        on_progress=on_sampling,
    )
    lora = lora_shape(config)
    device = best_device()
    dtype = resolve_dtype(config.precision, device)
    model = build_reward_model(base_folder, lora, seed=ADAPTER_SEED, dtype=dtype, device=device)
    if start:
        # Privacy: as for the generator proxy, a constant that no record has touched.
        load_reward_tensors(model, start.tensors)
    if config.lora.freeze_a:
        freeze_a(model.adapted)
    losses = train_dp_sgd(
        DpSgdTask(
            model=model,
            units=prepared,
            unit_loss=PairwiseLoss(),
            unit_size=_unit_size,
            probe=probe_preferences(load_tokenizer(base_folder), records_config),
        ),
        plan=plan,
        batches=batches,
        config=config,
        randomness=randomness,
        state=state,
        save=save,
        on_progress=on_progress,
    )
    return TrainedProxy(tensors=reward_tensors(model), lora=lora, private_losses=tuple(losses))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseLoss:
    """Sum over a unit's records of the weighted Bradley–Terry loss of each record's pairs."""

    def __call__(
        self, model: nn.Module, units: Sequence[Sequence[RecordPreferences]]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the loss of each unit and the unit of each sequence."""
        assert isinstance(model, RewardModel)
        records = [record for unit in units for record in unit]
        unit_of_row = [u for u, unit in enumerate(units) for _ in unit]
        rewards = rewards_of(model, [record_row(record) for record in records])  # (R, N)
        # Privacy: both sides of a margin stand in one record's row, and a unit's losses are added
        # into its own place: no loss looks at another unit.
        # Every record has the same pairs, as the configuration weighs them.
        losses = torch.zeros(len(records), device=rewards.device)
        for pair in records[0].pairs:
            margins = rewards[:, pair.chosen] - rewards[:, pair.rejected]
            losses = losses + pair.weight * functional.softplus(-margins)
        units_of = torch.tensor(unit_of_row, device=rewards.device)
        return torch.zeros(len(units), device=rewards.device).index_add(
            0, units_of, losses
        ), unit_of_row


def record_row(record: RecordPreferences) -> PackedRow:
    """Return a record's responses as one row, so that its prompt is read once for all of them."""
    members = tuple(range(len(record.responses)))
    return PackedRow(prefix=record.prefix, tails=record.responses, members=members)


def probe_preferences(
    tokenizer: PreTrainedTokenizerBase, records_config: RecordsConfig
) -> list[list[RecordPreferences]]:
    """Return two made-up units for a training to be checked on, each with its own chosen response.

    Args:
        tokenizer: Tokenizer of the base model.
        records_config: Gives the instruction; its limits of length are not applied.

    Returns:
        Two units; the response that each rejects is the other's.
    """
    own, other = probe_chats(tokenizer, records_config)
    pairs = (PreferencePair(chosen=0, rejected=1, weight=1.0),)
    return [
        [
            RecordPreferences(
                prefix=chat.response_prefix,
                responses=(chat.response_ids, rejected.response_ids),
                pairs=pairs,
            )
        ]
        for chat, rejected in ((own, other), (other, own))
    ]


def _preferences_of(
    drawn: npt.NDArray[np.int64],
    units: Sequence[Sequence[PrivateRecord]],
    *,
    base_folder: Path,
    generator: ReleasedGenerator,
    work_folder: Path,
    num_threads: int | None,
    preferences_config: PreferencesConfig,
    records_config: RecordsConfig,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> list[tuple[RecordPreferences, ...]]:
    """Return preferences for the drawn units, and nothing in the places of the others."""
    prepared: list[tuple[RecordPreferences, ...]] = [() for _ in units]
    if not len(drawn):
        return prepared
    generator_folder = merge_adapter(
        base_folder,
        generator.release.weights.tensors,
        generator.lora,
        out_folder=merged_generator_folder(work_folder, generator.digest),
    )
    engine = SamplingEngine(preferences_config.engine)

    def opener(folder: Path, cache_folder: Path | None) -> Callable[[], Sampler]:
        return lambda: open_sampler(
            folder, engine=engine, num_threads=num_threads, cache_folder=cache_folder
        )

    flat = build_preferences(
        [record for u in drawn for record in units[int(u)]],
        tokenizer=load_tokenizer(base_folder),
        open_base=opener(base_folder, None),
        open_generator=opener(generator_folder, work_folder),
        config=preferences_config,
        records_config=records_config,
        seed=seed,
        on_progress=on_progress,
    )
    rest = iter(flat)
    for u in drawn:
        prepared[int(u)] = tuple(next(rest) for _ in units[int(u)])
    return prepared


def _unit_size(unit: Sequence[RecordPreferences]) -> tuple[int, int]:
    return len(unit), max((record_row(record).length for record in unit), default=0)
