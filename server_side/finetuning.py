"""Stage 11: tune the target on the chosen responses of the pool, with LoRA under TRL's trainer.

The chats are tokenised by `lm.encoding`, the same code that sampling and scoring use, and handed to
TRL with labels on the response (and the token that ends it) only. Training is killed and continued
at will: it goes on from the newest whole checkpoint (`server_side/checkpoints.py`), and on a CPU
the end is the same as without the interruption.

Nothing is reported to anybody: TRL's telemetry and the hub are cut off, and what the libraries
would print stays inside. `report_to: tensorboard` writes event files beside the checkpoints.

With `num_processes` above 1 the batch is split among as many processes, one for each accelerator
(`server_side/tuning_processes.py`).

Layout of the output folder: `training.json` (what is trained), `checkpoints/` until the end, then
`adapter/`, which appears only when whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from lm.adapters import attach_lora, expected_adapter_shapes, load_adapter
from lm.devices import best_device
from lm.encoding import encode_chat
from lm.likelihood import backbone_and_head, frozen_head_nll
from lm.loading import base_model_digest, load_causal_lm, load_tokenizer
from protocol.artifacts import LoraShape
from protocol.errors import ConfigurationError, StageError
from server_side.checkpoints import mark_whole, newest_whole_checkpoint
from server_side.config import FinetuningConfig
from server_side.run_store import write_atomically
from server_side.samples import CuratedSample, OnProgress
from server_side.target_adapter import (
    TargetAdapter,
    adapter_digest,
    read_adapter,
    write_adapter,
)
from server_side.tuning_processes import TuningJob, is_worker, num_workers, tune_in_processes

_IGNORED_LABEL = -100
_ADAPTER = "adapter"
_HISTORY = "history.json"


def finetune_target(
    pool: Sequence[CuratedSample],
    *,
    target_folder: Path,
    previous_adapter: Path | None,
    config: FinetuningConfig,
    output_folder: Path,
    seed: int,
    round_index: int,
    on_progress: OnProgress | None = None,
) -> TargetAdapter:
    """Tune the target on `chosen`, or finish a tuning that was interrupted.

    Args:
        pool: Samples to tune on.
        target_folder: Folder of the target model.
        previous_adapter: PEFT folder to go on from; None starts with a fresh adapter.
        config: Adapter and optimiser.
        output_folder: Where checkpoints and adapter go. If it holds whole checkpoints of this very
            training, the newest is continued; if it holds the finished adapter, that is returned.
        seed: Seed of the adapter's initial weights and of the order of samples.
        round_index: Round of the refinement loop, which shuffles anew in each.
        on_progress: Told how many steps are done, of how many.

    Returns:
        The tuned adapter.

    Raises:
        StageError: The pool is empty, or training diverged.
        ConfigurationError: The output folder belongs to another training, the previous adapter has
            another shape, or TensorBoard is asked for and not installed.
    """
    if not pool:
        raise StageError(
            f"Expected samples to tune the target on in round {round_index}, found an empty pool. "
            "Ask for more queries, or keep a larger share of them."
        )
    _require_reporter(config)
    output_folder.mkdir(parents=True, exist_ok=True)
    _claim_folder(
        output_folder,
        _description(pool, target_folder, previous_adapter, config, seed, round_index),
    )
    if (output_folder / _ADAPTER).is_dir() and (output_folder / _HISTORY).is_file():
        return _read_finished(output_folder)
    checkpoints = output_folder / "checkpoints"
    newest = newest_whole_checkpoint(checkpoints)
    if config.num_processes > 1 and not is_worker():
        job = TuningJob(
            pool=tuple(pool),
            target_folder=target_folder,
            previous_adapter=previous_adapter,
            config=config,
            output_folder=output_folder,
            seed=seed,
            round_index=round_index,
        )
        tune_in_processes(job, on_progress=on_progress)
        return _read_finished(output_folder)
    with _contained(seed):
        tokenizer = load_tokenizer(target_folder)
        rows = _encode_pool(pool, tokenizer, config)
        trainer = _TargetTrainer(
            model=_trainable_target(target_folder, previous_adapter, config, seed=seed),
            args=_training_arguments(config, checkpoints, seed=seed + round_index),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[_Watcher(on_progress)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise StageError(
            f"Expected a finite loss in every step of round {round_index}, found one that is not. "
            "Lower finetuning.learning_rate, or set finetuning.dtype=float32."
        )
    if trainer.is_world_process_zero():
        _write_json(
            output_folder / _HISTORY, {"num_steps": trainer.state.global_step, "losses": losses}
        )
        write_adapter(trainer.model, output_folder / _ADAPTER)
        for folder in checkpoints.glob("checkpoint-*"):
            shutil.rmtree(folder, ignore_errors=True)  # event files of TensorBoard stay
    trainer.accelerator.wait_for_everyone()
    return _read_finished(output_folder)


def _read_finished(output_folder: Path) -> TargetAdapter:
    history = json.loads((output_folder / _HISTORY).read_text(encoding="utf-8"))
    return TargetAdapter(
        folder=output_folder / _ADAPTER,
        digest=adapter_digest(output_folder / _ADAPTER),
        num_steps=history["num_steps"],
        losses=tuple(history["losses"]),
    )


class _TargetTrainer(SFTTrainer):  # type: ignore[misc]  # TRL ships no types
    """TRL's trainer, silent towards the outside, with a loss that spares a CPU the prompt."""

    def _send_telemetry(self) -> None:
        """Stay silent: what is trained here, and that it is, is nobody else's business."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # TRL's types
        # Past SFTTrainer's own method, whose model card asks experiment trackers for addresses.
        Trainer._save_checkpoint(self, model, trial)

    def compute_loss(
        self,
        model: Any,  # a wrapped model of accelerate's
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean negative log-likelihood of the response tokens.

        Without Triton, TRL projects every position of the batch onto the vocabulary. Here only
        response tokens are; the value is the same (a test compares the two).
        """
        is_alone = self.accelerator.num_processes == 1
        if inputs["input_ids"].device.type != "cpu" or return_outputs or not is_alone:
            # Several processes average their gradients within the wrapped model's own forward.
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        backbone, head = backbone_and_head(model)
        hidden = backbone(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state[:, :-1]  # (B, T - 1, H): the state before a token predicts it
        labels = inputs["labels"][:, 1:]  # (B, T - 1)
        is_response = labels != _IGNORED_LABEL
        losses = frozen_head_nll(hidden[is_response], head, labels[is_response])
        count = is_response.sum() if num_items_in_batch is None else num_items_in_batch
        return losses.sum() / torch.as_tensor(count).clamp(min=1)


class _Watcher(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Report progress, and mark each checkpoint as whole once all of it is on disk."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Tell how many steps are done, of how many."""
        if self._on_progress:
            self._on_progress(state.global_step, state.max_steps)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Vouch for the checkpoint."""
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _trainable_target(
    target_folder: Path, previous_adapter: Path | None, config: FinetuningConfig, *, seed: int
) -> PeftModel:
    lora = LoraShape(
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        target_modules=tuple(sorted(config.target_modules)),
        num_upper_layers=config.num_upper_layers,
        use_rslora=False,
    )
    base = load_causal_lm(target_folder, dtype=getattr(torch, config.dtype), device=best_device())
    if previous_adapter is None:
        model = attach_lora(base, lora, seed=seed)
    else:
        stored = read_adapter(previous_adapter)
        expected = expected_adapter_shapes(target_folder, lora, has_reward_head=False)
        found = {name: tensor.shape for name, tensor in stored.tensors.items()}
        if found != expected or stored.lora.alpha != lora.alpha:
            raise ConfigurationError(
                f"Expected the adapter in {previous_adapter} to have the configured shape {lora}, "
                f"found {stored.lora}. Keep lora_rank, lora_alpha, target_modules and "
                "num_upper_layers of finetuning as they are within a run."
            )
        model = load_adapter(base, stored.tensors, lora, is_trainable=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout["default"] = torch.nn.Dropout(config.lora_dropout)
    return model


def _encode_pool(
    pool: Sequence[CuratedSample], tokenizer: PreTrainedTokenizerBase, config: FinetuningConfig
) -> list[dict[str, list[int]]]:
    """Tokenise the samples; a response that is cut has no end to learn."""
    rows = []
    for sample in pool:
        chat = encode_chat(
            tokenizer,
            instruction=sample.instruction,
            prompt=sample.prompt,
            response=sample.chosen,
            max_prompt_tokens=config.max_prompt_tokens,
            max_response_tokens=config.max_response_tokens,
        )
        start, stop = chat.response_span
        ids = list(chat.input_ids)
        rows.append({"input_ids": ids, "labels": [_IGNORED_LABEL] * start + ids[start:stop]})
    return rows


def _training_arguments(config: FinetuningConfig, checkpoints: Path, *, seed: int) -> SFTConfig:
    # The largest share of a batch that divides it: otherwise optimiser steps would differ in size.
    share = config.batch_size // num_workers()
    physical = max(
        size
        for size in range(1, min(config.max_physical_batch_size, share) + 1)
        if share % size == 0
    )
    return SFTConfig(
        output_dir=str(checkpoints),
        seed=seed,
        data_seed=seed,
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=physical,
        gradient_accumulation_steps=share // physical,
        ddp_backend="gloo" if is_worker() and not torch.cuda.is_available() else None,
        ddp_find_unused_parameters=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_fraction,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch",
        # The base is already held in the wanted dtype and the adapter in float32; autocast on top
        # would compute the adapter in bfloat16 as well.
        bf16=False,
        gradient_checkpointing=config.gradient_checkpointing,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        # Two, because the older one goes before the newer one is marked as whole.
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        log_level="error",
        report_to=config.report_to,
        push_to_hub=False,
    )


def _description(
    pool: Sequence[CuratedSample],
    target_folder: Path,
    previous_adapter: Path | None,
    config: FinetuningConfig,
    seed: int,
    round_index: int,
) -> dict[str, object]:
    texts = [[sample.instruction, sample.prompt, sample.chosen] for sample in pool]
    return {
        "pool_digest": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "target_digest": base_model_digest(target_folder),
        "previous_digest": None if previous_adapter is None else adapter_digest(previous_adapter),
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "seed": seed,
        "round_index": round_index,
    }


def _claim_folder(folder: Path, description: Mapping[str, object]) -> None:
    path = folder / "training.json"
    if not path.exists():
        _write_json(path, description)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    differing = [key for key in description if found.get(key) != description[key]]
    if differing:
        raise ConfigurationError(
            f"Expected {folder} to be empty or to hold this very training, found one that differs "
            f"in {', '.join(differing)}. Choose another folder, or remove it."
        )


def _require_reporter(config: FinetuningConfig) -> None:
    if config.report_to == "tensorboard" and not importlib.util.find_spec("tensorboard"):
        raise ConfigurationError(
            "Expected the package tensorboard because finetuning.report_to=tensorboard, found it "
            "missing. Install tensorboard, or set finetuning.report_to=none."
        )


@contextmanager
def _contained(seed: int) -> Iterator[None]:
    """Keep the libraries' messages, progress bars and seeding from the rest of the program."""
    had_bars = datasets.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        transformers.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
