"""What stage 11 leaves in its output folder, and whether it is this very training's.

Layout: `training.json` (what is trained), `checkpoints/` until the end, `curves/` where a tracker
was asked for, then `history.json` and `tuned/`, which appears only when whole and is the last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lm.model_folders import base_model_digest
from protocol.errors import ConfigurationError
from server_side.config import FinetuningConfig
from server_side.samples import CuratedSample
from server_side.tuning.tuned_target import TUNED, TunedTarget, tuned_digest
from server_side.whole_files import read_json, write_atomically

_DESCRIPTION = "training.json"
_HISTORY = "history.json"


def describe_training(
    pool: Sequence[CuratedSample],
    *,
    target_folder: Path,
    previous: Path | None,
    config: FinetuningConfig,
    seed: int,
    round_index: int,
) -> dict[str, object]:
    """Return all that a training depends on, as JSON values; texts and weights by digest.

    Args:
        pool: Samples to tune on; their order counts.
        target_folder: Folder of the untuned target.
        previous: Folder of the tuned target to go on from; None starts afresh.
        config: What is tuned, for what, and how; with the round's own number of steps.
        seed: Seed of a fresh adapter's weights and of the order of samples.
        round_index: Round of the refinement loop, from 1.

    Returns:
        What `claim_folder` compares, by name.
    """
    texts = [[sample.instruction, sample.prompt, sample.chosen, sample.rejected] for sample in pool]
    return {
        "pool_digest": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "target_digest": base_model_digest(target_folder),
        "previous_digest": None if previous is None else tuned_digest(previous),
        "config": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "seed": seed,
        "round_index": round_index,
    }


def claim_folder(folder: Path, description: Mapping[str, object]) -> None:
    """Write down what a folder is for, or check that it is for this.

    Args:
        folder: Output folder of the training; it is there, perhaps with an earlier start's files.
        description: What `describe_training` says of this training.

    Raises:
        ConfigurationError: It belongs to another training.
    """
    path = folder / _DESCRIPTION
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


def is_finished(folder: Path) -> bool:
    """Return whether the tuned target is there."""
    return (folder / TUNED).is_dir() and (folder / _HISTORY).is_file()


def write_history(
    folder: Path, *, num_steps: int, losses: Sequence[float], num_pairs_dropped: int
) -> None:
    """Write how a training went, before the tuned target gets its name.

    Args:
        folder: Output folder of the training.
        num_steps: Optimiser steps of this round, those before an interruption included.
        losses: Loss of each of these steps, all finite.
        num_pairs_dropped: Samples left out because they prefer nothing; 0 for sft.
    """
    history = {"num_steps": num_steps, "losses": losses, "num_pairs_dropped": num_pairs_dropped}
    _write_json(folder / _HISTORY, history)


def read_finished(folder: Path) -> TunedTarget:
    """Read what a finished training left."""
    history = read_json(folder / _HISTORY)
    return TunedTarget(
        folder=folder / TUNED,
        digest=tuned_digest(folder / TUNED),
        num_steps=history["num_steps"],
        losses=tuple(history["losses"]),
        num_pairs_dropped=history["num_pairs_dropped"],
    )


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
