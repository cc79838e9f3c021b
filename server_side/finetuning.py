"""Stage 11: tune the target on the pool, under TRL's trainers.

`finetuning.objective` says for what (`server_side/tuning/trainers.py`), `finetuning.method` which
weights (`server_side/tuning/model.py`). Training is killed and continued at will: it goes on from
the newest whole checkpoint (`server_side/tuning/checkpoints.py`), and on a CPU the end is the same
as without the interruption.

Nothing is reported to anybody: TRL's telemetry and the hub are cut off, and what the libraries
would print stays inside. Curves stay in the run folder (`server_side/tuning/curves.py`).

With `num_processes` above 1 the batch is split among as many processes, one for each accelerator
(`server_side/tuning/processes.py`).
"""

from __future__ import annotations

import math
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import datasets
import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lm.loading import load_tokenizer
from protocol.errors import StageError
from server_side.config import FinetuningConfig
from server_side.config.finetuning import Method
from server_side.samples import CuratedSample, OnProgress
from server_side.tuning.checkpoints import checkpoint_step, mark_whole, newest_whole_checkpoint
from server_side.tuning.curves import CURVES, keep_curves
from server_side.tuning.folder import (
    claim_folder,
    describe_training,
    is_finished,
    read_finished,
    write_history,
)
from server_side.tuning.model import trainable_target
from server_side.tuning.packages import require_packages
from server_side.tuning.processes import TuningJob, tune_in_processes
from server_side.tuning.target_adapter import write_adapter
from server_side.tuning.trainers import prepare_training
from server_side.tuning.tuned_target import TUNED, TunedTarget, write_model

_CHECKPOINTS: Final = "checkpoints"


def finetune_target(
    pool: Sequence[CuratedSample],
    *,
    target_folder: Path,
    previous: Path | None,
    config: FinetuningConfig,
    output_folder: Path,
    seed: int,
    round_index: int,
    on_progress: OnProgress | None = None,
) -> TunedTarget:
    """Tune the target on a pool, or finish a tuning that was interrupted.

    Args:
        pool: Samples to tune on.
        target_folder: Folder of the target model.
        previous: Folder of the tuned target to go on from; None starts afresh.
        config: What is tuned, for what, and how.
        output_folder: Where everything goes. If it holds whole checkpoints of this very training,
            the newest is continued; if it holds the tuned target, that is returned.
        seed: Seed of a fresh adapter's weights and of the order of samples.
        round_index: Round of the refinement loop, which shuffles anew in each.
        on_progress: Told how many steps are done, of how many.

    Returns:
        The tuned target.

    Raises:
        StageError: The pool is empty or prefers nothing, or training diverged.
        ConfigurationError: The output folder belongs to another training, the previous round was
            tuned otherwise, or a package that a setting needs is not installed.
    """
    if not pool:
        raise StageError(
            f"Expected samples to tune the target on in round {round_index}, found an empty pool. "
            "Ask for more queries, or keep a larger share of them."
        )
    require_packages(config)
    output_folder.mkdir(parents=True, exist_ok=True)
    description = describe_training(
        pool,
        target_folder=target_folder,
        previous=previous,
        config=config,
        seed=seed,
        round_index=round_index,
    )
    claim_folder(output_folder, description)
    if is_finished(output_folder):
        # A start that was killed just then may have left them behind.
        shutil.rmtree(output_folder / _CHECKPOINTS, ignore_errors=True)
        return read_finished(output_folder)
    job = TuningJob(
        pool=tuple(pool),
        target_folder=target_folder,
        previous=previous,
        config=config,
        output_folder=output_folder,
        # Found once, before there are several processes that could each find and remove something.
        checkpoint=newest_whole_checkpoint(output_folder / _CHECKPOINTS),
        seed=seed,
        round_index=round_index,
    )
    if config.num_processes > 1:
        tune_in_processes(job, on_progress=on_progress)
    else:
        train_target(job, on_progress=on_progress)
    return read_finished(output_folder)


def train_target(job: TuningJob, *, on_progress: OnProgress | None) -> None:
    """Do this process's share of a tuning; the first process leaves the result.

    Args:
        job: The tuning; its output folder is claimed already.
        on_progress: Told how many steps are done, of how many.

    Raises:
        StageError: The pool prefers nothing, or training diverged.
    """
    config, checkpoint, output_folder = job.config, job.checkpoint, job.output_folder
    checkpoints = output_folder / _CHECKPOINTS
    curves = keep_curves(
        config,
        output_folder / CURVES,
        name=f"target, round {job.round_index}",
        first_step=1 if checkpoint is None else checkpoint_step(checkpoint) + 1,
    )
    with _contained(job.seed), curves as callbacks:
        tokenizer = load_tokenizer(job.target_folder)
        training = prepare_training(
            trainable_target(job.target_folder, job.previous, config, seed=job.seed),
            job.pool,
            tokenizer,
            config=config,
            checkpoints=checkpoints,
            seed=job.seed,
            round_index=job.round_index,
            callbacks=[_Watcher(on_progress), *callbacks],
        )
        trainer = training.trainer
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    losses = _finite_losses(trainer, job.round_index)
    if trainer.is_world_process_zero():
        write_history(
            output_folder,
            num_steps=trainer.state.global_step,
            losses=losses,
            num_pairs_dropped=training.num_pairs_dropped,
        )
        if config.method == Method.FULL:
            write_model(trainer.model, tokenizer, output_folder / TUNED)
        else:
            write_adapter(trainer.model, output_folder / TUNED)
        shutil.rmtree(checkpoints, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


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
        """Vouch for the checkpoint, to which each process adds a file of its own."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def _finite_losses(trainer: Trainer, round_index: int) -> list[float]:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # The weights as well: no loss is computed after the last step.
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    if not (all(map(math.isfinite, losses)) and all(bool(p.isfinite().all()) for p in trained)):
        raise StageError(
            f"Expected finite losses and weights in every step of round {round_index}, found some "
            "that are not: the tuning diverged. Lower finetuning.learning_rate, or set "
            "finetuning.dtype=float32."
        )
    return losses


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
