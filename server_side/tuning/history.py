"""What tuning the target left of itself: its losses, and how much it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server_side.config import FinetuningConfig
from server_side.measuring.metrics import TuningEffort
from server_side.whole_files import read_json


def read_losses(folder: Path) -> tuple[float, ...]:
    """Return the loss of each logged step of one round, from what `finetune_target` left."""
    return tuple(_read_history(folder)["losses"])


def tuning_effort(
    folders: Sequence[Path], *, pool_sizes: Sequence[int], config: FinetuningConfig
) -> TuningEffort:
    """Sum up how much the target was tuned over all rounds.

    Args:
        folders: What `finetune_target` left, by round.
        pool_sizes: Samples in each round's pool.
        config: Batch size.

    Returns:
        The effort; samples that an objective left out are not counted as seen.
    """
    histories = [_read_history(folder) for folder in folders]
    steps = [history["num_steps"] for history in histories]
    sizes = [
        size - history["num_pairs_dropped"]
        for size, history in zip(pool_sizes, histories, strict=True)
    ]
    seen = 0
    for num_steps, size in zip(steps, sizes, strict=True):
        # A pass ends with a smaller batch where the pool does not divide.
        steps_of_pass = -(-size // config.batch_size)
        passes, rest = divmod(num_steps, steps_of_pass)
        seen += passes * size + rest * config.batch_size
    return TuningEffort(
        num_samples=sizes[-1],
        num_steps=sum(steps),
        batch_size=config.batch_size,
        num_samples_seen=seen,
    )


def _read_history(folder: Path) -> dict[str, Any]:  # a JSON object
    history: dict[str, Any] = read_json(folder / "history.json")
    return history
