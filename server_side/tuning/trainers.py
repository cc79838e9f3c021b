"""TRL's trainers as stage 11 uses them: silent towards the outside, and sparing with a CPU.

- `sft`: the mean negative log-likelihood of the chosen responses' tokens.
- `dpo`: the pair's log-ratio against a reference, the target as this round found it (the untuned
  one in the first round). The reference reads every pair once, before the first step, so that no
  second model stands in memory and a resumed training sees the same numbers.
- `orpo`: `server_side/tuning/orpo.py`.

Reference: DPO, Rafailov et al. (NeurIPS 2023), eq. 7, with `preference_beta` as β.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import trl.trainer.utils
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from lm.adapters import adapter_tensors, load_adapter_tensors
from lm.devices import best_device, resolve_dtype
from lm.likelihood import backbone_and_head, frozen_head_nll, response_nll_sums
from protocol.errors import StageError
from server_side.config import FinetuningConfig
from server_side.config.finetuning import Method, Objective
from server_side.samples import CuratedSample
from server_side.tuning.processes import is_worker, num_workers
from server_side.tuning.rows import (
    IGNORED_LABEL,
    EncodedPair,
    dpo_row,
    encode_chosen,
    encode_pairs,
    orpo_row,
    sft_row,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedTraining:
    """A trainer with its samples."""

    trainer: Trainer
    """Trains when told to."""
    num_pairs_dropped: int
    """Samples left out because they prefer nothing."""


def prepare_training(
    model: PreTrainedModel | PeftModel,
    pool: Sequence[CuratedSample],
    tokenizer: PreTrainedTokenizerBase,
    *,
    config: FinetuningConfig,
    checkpoints: Path,
    seed: int,
    round_index: int,
    callbacks: Sequence[TrainerCallback],
) -> PreparedTraining:
    """Build the trainer of the configured objective.

    Args:
        model: What is trained.
        pool: Samples to tune on.
        tokenizer: The target's tokenizer.
        config: Objective and optimiser.
        checkpoints: Where the trainer keeps its checkpoints.
        seed: Seed of the order of samples.
        round_index: Round of the refinement loop.
        callbacks: What watches the training.

    Returns:
        The trainer before its first step, and how many samples it does without.

    Raises:
        StageError: No sample prefers one response to another, as orpo and dpo need.
    """
    settings = _settings(config, checkpoints, seed=seed, round_index=round_index)
    shared = {"model": model, "processing_class": tokenizer, "callbacks": list(callbacks)}
    masters = adapter_tensors(model) if config.method == Method.QLORA else None
    trainer: Trainer
    pairs = [] if config.objective == Objective.SFT else encode_pairs(pool, tokenizer, config)
    if config.objective != Objective.SFT and not pairs:
        raise StageError(
            f"Expected pairs whose responses differ for finetuning.objective={config.objective} in "
            f"round {round_index}, found none among {len(pool)} samples. Ask for more candidates "
            "a query, or tune with objective=sft."
        )
    match Objective(config.objective):
        case Objective.SFT:
            rows = [sft_row(chat) for chat in encode_chosen(pool, tokenizer, config)]
            arguments = SFTConfig(
                **settings,
                max_length=None,
                packing=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            )
            trainer = _SftTrainer(
                args=arguments, train_dataset=datasets.Dataset.from_list(rows), **shared
            )
        case Objective.DPO:
            arguments = DPOConfig(
                **settings,
                beta=config.preference_beta,
                max_length=None,
                precompute_ref_log_probs=True,
            )
            with torch.autocast(
                torch.device(best_device()).type, torch.bfloat16, enabled=settings["bf16"]
            ):
                rows = _rows_with_reference(model, pairs)
            trainer = _DpoTrainer(
                args=arguments, train_dataset=datasets.Dataset.from_list(rows), **shared
            )
        case Objective.ORPO:
            # Imported where it is wanted: TRL may still change what it calls experimental.
            from server_side.tuning.orpo import OrpoTrainer, orpo_arguments

            arguments = orpo_arguments(settings, beta=config.preference_beta)
            rows = [orpo_row(pair) for pair in pairs]
            trainer = OrpoTrainer(
                args=arguments, train_dataset=datasets.Dataset.from_list(rows), **shared
            )
    if masters is not None:
        _restore_masters(trainer.model, masters)
    num_dropped = len(pool) - len(pairs) if config.objective != Objective.SFT else 0
    return PreparedTraining(trainer=trainer, num_pairs_dropped=num_dropped)


class QuietTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """What all trainers here leave out of TRL's: whatever speaks to the outside."""

    def _send_telemetry(self) -> None:
        """Stay silent: what is trained here, and that it is, is nobody else's business."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # TRL's types
        # Past TRL's own method, whose model card asks experiment trackers for addresses.
        Trainer._save_checkpoint(self, model, trial)


class _SftTrainer(QuietTrainer, SFTTrainer):  # type: ignore[misc]  # TRL ships no types
    def compute_loss(
        self,
        model: Any,  # a wrapped model of accelerate's
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean negative log-likelihood of the response tokens.

        With a frozen head on a CPU, logits and their gradient are computed once and together, for
        response tokens only; the value is TRL's (a test compares the two).
        """
        backbone, head = backbone_and_head(self.accelerator.unwrap_model(model))
        is_alone = self.accelerator.num_processes == 1
        is_frozen = not head.weight.requires_grad
        if inputs["input_ids"].device.type != "cpu" or not (is_alone and is_frozen):
            # Several processes average their gradients within the wrapped model's own forward.
            with response_tokens_only():
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        hidden = backbone(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state[:, :-1]  # (B, T - 1, H): the state before a token predicts it
        labels = inputs["labels"][:, 1:]  # (B, T - 1)
        is_response = labels != IGNORED_LABEL
        losses = frozen_head_nll(hidden[is_response], head, labels[is_response])
        count = is_response.sum() if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / torch.as_tensor(count).clamp(min=1)


class _DpoTrainer(QuietTrainer, DPOTrainer):  # type: ignore[misc]  # TRL ships no types
    def __init__(self, **arguments: Any) -> None:  # TRL's
        super().__init__(**arguments)
        # TRL copies an adapter to be its reference; here the reference has spoken already.
        if "ref" in getattr(self.model, "peft_config", {}):
            self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        """Take the rows as they are: token ids already."""
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        """Take the rows as they are: the reference's log-probabilities stand in them."""
        return dataset

    def compute_loss(
        self,
        model: Any,  # a wrapped model of accelerate's
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return TRL's loss, for which a CPU projects no prompt onto the vocabulary."""
        with response_tokens_only():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


@contextmanager
def response_tokens_only() -> Iterator[None]:
    """Let TRL's output head skip the tokens that are not learnt on a CPU as on an accelerator.

    TRL asks whether there is Triton, because shapes that change from batch to batch make some
    other devices compile anew; a CPU has nothing to compile. Its kernels ask for themselves. Where
    a later TRL asks otherwise, this changes nothing: the loss is the same, and takes longer.
    """
    name = "_use_triton"
    found: Any = getattr(trl.trainer.utils, name, None)  # a private function of TRL's
    setattr(trl.trainer.utils, name, lambda device: device.type == "cpu" or found(device))
    try:
        yield
    finally:
        setattr(trl.trainer.utils, name, found)


def _rows_with_reference(
    model: PreTrainedModel | PeftModel, pairs: Sequence[EncodedPair]
) -> list[dict[str, Any]]:
    """Return the rows with their log-probabilities under the model as it is now.

    Of several processes, each reads its share of the pairs.
    """
    rank = torch.distributed.get_rank() if is_worker() else 0
    mine = range(rank, len(pairs), num_workers())
    chats = [chat for index in mine for chat in (pairs[index].chosen, pairs[index].rejected)]
    model.eval()
    sums = response_nll_sums(model, chats)
    found = list(zip(mine, sums[::2], sums[1::2], strict=True))
    read = {index: both for index, *both in (gather_object(found) if is_worker() else found)}
    return [
        {**dpo_row(pair), "ref_chosen_logps": -read[i][0], "ref_rejected_logps": -read[i][1]}
        for i, pair in enumerate(pairs)
    ]


def _restore_masters(model: PeftModel, masters: Any) -> None:
    """Put an adapter back into float32, to which TRL gives bfloat16 where the base is quantised."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    load_adapter_tensors(model, masters)


def _settings(
    config: FinetuningConfig, checkpoints: Path, *, seed: int, round_index: int
) -> dict[str, Any]:
    """Return the arguments that the trainers of all objectives share."""
    # The largest share of a batch that divides it: otherwise optimiser steps would differ in size.
    share = config.batch_size // num_workers()
    responses = 1 if config.objective == Objective.SFT else 2
    limit = max(1, config.max_physical_batch_size // responses)
    physical = max(size for size in range(1, min(limit, share) + 1) if share % size == 0)
    has_accelerator = torch.cuda.is_available()
    dtype = resolve_dtype(config.dtype, best_device())
    return {
        "output_dir": str(checkpoints),
        "seed": seed + round_index,
        "data_seed": seed + round_index,
        "num_train_epochs": config.num_epochs_in(round_index),
        "max_steps": config.num_steps or -1,
        "per_device_train_batch_size": physical,
        "gradient_accumulation_steps": share // physical,
        "use_cpu": not has_accelerator,
        "ddp_backend": "gloo" if is_worker() and not has_accelerator else None,
        "ddp_find_unused_parameters": False,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup_fraction,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "optim": "adamw_torch",
        # Under an adapter the base is already held in the wanted dtype and the adapter in float32;
        # autocast on top would compute the adapter in bfloat16 as well.
        "bf16": config.method == Method.FULL and dtype == torch.bfloat16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "dataloader_pin_memory": False,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_steps,
        # Two, because the older one goes before the newer one is marked as whole.
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "log_level": "error",
        "report_to": "none",  # `server_side/tuning/curves.py` brings the callback
        "push_to_hub": False,
    }
