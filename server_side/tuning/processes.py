"""Stage 11 on several devices: one tuning split among processes, one process for each accelerator.

`accelerate launch` starts the processes, and each runs `server_side/tuning/worker.py`. A batch is
cut among them and their gradients are averaged, so an optimiser step sees the samples that it would
see in one process. Only the first process writes; what it leaves in the output folder is the
result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from protocol.errors import StageError
from server_side.children import Children, last_lines
from server_side.config import FinetuningConfig
from server_side.json_values import from_json, to_json
from server_side.samples import CuratedSample, OnProgress
from server_side.whole_files import write_atomically

_POLL_SECONDS = 0.2
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningJob:
    """One tuning, as each of its processes is told it."""

    pool: tuple[CuratedSample, ...]
    """Samples to tune on."""
    target_folder: Path
    """Folder of the target model."""
    previous: Path | None
    """Folder of the tuned target to go on from."""
    config: FinetuningConfig
    """Adapter and optimiser."""
    output_folder: Path
    """Where everything goes."""
    checkpoint: Path | None
    """Whole checkpoint to go on from; None begins anew."""
    seed: int
    """Seed of weights and order."""
    round_index: int
    """Round of the refinement loop."""


def is_worker() -> bool:
    """Return whether this process is one of several that tune together."""
    return num_workers() > 1


def num_workers() -> int:
    """Return how many processes tune together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def tune_in_processes(job: TuningJob, *, on_progress: OnProgress | None) -> None:
    """Run a job in `config.num_processes` processes and wait for its end.

    Args:
        job: The tuning; its output folder is claimed already.
        on_progress: Told how many steps are done, of how many.

    Raises:
        StageError: A process failed; the message shows the end of what they wrote.
    """
    path = job.output_folder / "job.json"
    write_job(job, path)
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        "--num_machines", "1", "--num_processes", str(job.config.num_processes),
        "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0",  # any that is free
        "--module", "server_side.tuning.worker", str(path),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path[1:]])}
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
        threads = max(1, torch.get_num_threads() // job.config.num_processes)
        environment["OMP_NUM_THREADS"] = str(threads)
    progress = job.output_folder / "progress.json"
    progress.unlink(missing_ok=True)  # a start that was killed had come further than its checkpoint
    with Children(job.output_folder) as children:
        child = children.start("tuning", command, environment=environment, cwd=_ROOT)
        last: list[int] = []
        while (code := child.process.poll()) is None:
            time.sleep(_POLL_SECONDS)
            last = _tell(progress, last, on_progress)
        _tell(progress, last, on_progress)
        if code:
            raise StageError(
                f"Expected {job.config.num_processes} processes to tune the target, but one ended "
                f"with an error. See {child.log_file}{last_lines(child.log_file)}"
            )


def write_job(job: TuningJob, path: Path) -> None:
    """Write a job where its processes read it."""
    content = {
        "pool": to_json(job.pool),
        "target_folder": str(job.target_folder),
        "previous": None if job.previous is None else str(job.previous),
        "config": asdict(job.config),
        "output_folder": str(job.output_folder),
        "checkpoint": None if job.checkpoint is None else str(job.checkpoint),
        "seed": job.seed,
        "round_index": job.round_index,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_job(path: Path) -> TuningJob:
    """Read what `write_job` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    previous, checkpoint = content["previous"], content["checkpoint"]
    return TuningJob(
        pool=tuple(from_json(CuratedSample, sample) for sample in content["pool"]),
        target_folder=Path(content["target_folder"]),
        previous=None if previous is None else Path(previous),
        config=FinetuningConfig(**content["config"]),
        output_folder=Path(content["output_folder"]),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        seed=content["seed"],
        round_index=content["round_index"],
    )


def note_progress(folder: Path, done: int, total: int) -> None:
    """Leave a note of how far the processes are, for the one that waits for them.

    Args:
        folder: Output folder of the job.
        done: Optimiser steps that are done.
        total: Optimiser steps of the whole training.
    """
    write_atomically(folder / "progress.json", json.dumps([done, total]))


def _tell(path: Path, last: Sequence[int], on_progress: OnProgress | None) -> list[int]:
    try:
        found: list[int] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return list(last)
    if on_progress and found != list(last):
        on_progress(*found)
    return found
