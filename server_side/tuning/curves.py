"""Training curves, kept in the run folder by a tracker of the operator's choice.

The trainers' own integrations write; this module sees that they write here and to nobody else:
TensorBoard event files, an MLflow file store, or a Weights & Biases run in offline mode, which its
owner may synchronise afterwards. All of it lies in `curves/` and outlives the checkpoints.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from server_side.config import FinetuningConfig
from server_side.config.finetuning import Tracker

CURVES: Final = "curves"
"""Name of the trackers' folder within the folder of the stage."""

_PROJECT: Final = "rewardds"
_QUIET: Final = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_LOG_MODEL": "false",
    "WANDB_WATCH": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "HF_MLFLOW_LOG_ARTIFACTS": "false",
}
# Each would send the curves somewhere, or attach them to another run.
_REMOVED: Final = ("WANDB_RUN_ID", "WANDB_RESUME", "MLFLOW_RUN_ID")


@contextmanager
def keep_curves(
    config: FinetuningConfig, folder: Path, *, name: str, first_step: int
) -> Iterator[list[TrainerCallback]]:
    """Hold a tracker open for the time of a training.

    Args:
        config: Which tracker.
        folder: Where it writes.
        name: What it calls the training.
        first_step: Step that comes first; later ones that a killed start had written are hidden.

    Yields:
        The callback for the trainer; none where no tracker is asked for, and in all of several
        processes but the first.
    """
    if config.report_to == Tracker.NONE or os.environ.get("RANK", "0") != "0":
        yield []
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _environment(_QUIET, _REMOVED):
            match Tracker(config.report_to):
                case Tracker.TENSORBOARD:
                    from torch.utils.tensorboard import SummaryWriter

                    writer = SummaryWriter(str(folder), purge_step=first_step)
                    try:
                        yield [TensorBoardCallback(writer)]
                    finally:
                        writer.close()
                case Tracker.MLFLOW:
                    with _mlflow_run(folder, name):
                        yield [MLflowCallback()]
                case Tracker.WANDB:
                    with _wandb_run(folder, name):
                        yield [WandbCallback()]
    finally:
        # Shortcuts of wandb's to the newest run: absolute, and the run folder is yet to be renamed.
        for path in folder.rglob("*"):
            if path.is_symlink():
                path.unlink()


@contextmanager
def _mlflow_run(folder: Path, name: str) -> Iterator[None]:
    import mlflow

    logger = logging.getLogger("mlflow")
    previous, level = mlflow.get_tracking_uri(), logger.level
    logger.setLevel(logging.WARNING)  # it would tell that it makes an experiment
    mlflow.set_tracking_uri(folder.resolve().as_uri())
    try:
        mlflow.set_experiment(_PROJECT)
        with mlflow.start_run(run_name=name):
            try:
                yield
            finally:
                mlflow.flush_async_logging()
    finally:
        mlflow.set_tracking_uri(previous)
        logger.setLevel(level)


@contextmanager
def _wandb_run(folder: Path, name: str) -> Iterator[None]:
    import wandb

    run = wandb.init(project=_PROJECT, name=name, dir=str(folder), mode="offline", reinit=True)
    try:
        yield
    finally:
        run.finish()


@contextmanager
def _environment(values: Mapping[str, str], removed: tuple[str, ...]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in (*values, *removed)}
    for key in removed:
        os.environ.pop(key, None)
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
