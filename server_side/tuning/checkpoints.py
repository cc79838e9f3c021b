"""Which checkpoints of a killed training can be trusted.

A trainer writes a checkpoint file by file. It counts once a list of all its files with their
digests stands in it, which is written last; a power cut or `kill -9` in between leaves remains that
are recognised and removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Final

from server_side.whole_files import write_atomically

_LIST: Final = "whole.json"
"""File in a checkpoint that lists the digests of its other files."""


def mark_whole(checkpoint: Path) -> None:
    """Vouch for a checkpoint whose files have all been written.

    Raises:
        DiskError: The disk is full or refuses.
    """
    digests = {
        str(path.relative_to(checkpoint)): _synced_digest(path)
        for path in sorted(checkpoint.rglob("*"))  # a tokenizer may keep templates in a subfolder
        if path.is_file()
    }
    write_atomically(checkpoint / _LIST, json.dumps(digests, indent=2) + "\n")


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """Find where a training can go on; remains of newer checkpoints are removed.

    Args:
        folder: Folder of checkpoints, each called `checkpoint-` and its step; may be absent.

    Returns:
        The whole checkpoint with the highest step; None where there is none.
    """
    checkpoints = sorted(folder.glob("checkpoint-*"), key=checkpoint_step)
    while checkpoints:
        checkpoint = checkpoints.pop()
        if _is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written, by its name."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_whole(checkpoint: Path) -> bool:
    try:
        digests = json.loads((checkpoint / _LIST).read_text(encoding="utf-8"))
        return all(_synced_digest(checkpoint / name) == found for name, found in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def _synced_digest(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
