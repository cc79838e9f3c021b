"""The merged generator in a client's work folder: made for one reward training, gone after it.

Each is as large as the base model, and so is its converted form. What a killed process left of one
goes as well.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

_MERGED: Final = "generator-"
_CONVERTED: Final = "gguf"
"""Where `lm.gguf_writer` keeps converted models; in a work folder they are merged generators."""


def merged_generator_folder(work_folder: Path, digest: str) -> Path:
    """Return where a released generator lies, merged into the base model.

    Args:
        work_folder: The client's folder of working files.
        digest: SHA-256 of the generator's weights.
    """
    return work_folder / f"{_MERGED}{digest[:16]}"


def discard_merged_generators(work_folder: Path) -> None:
    """Remove every merged generator and every conversion of one; they can be made again.

    What the disk does not let go stays: a release is not held up for it.

    Args:
        work_folder: The client's folder of working files; no training may be running in it.
    """
    # The second pattern is a folder that a killed process was still filling.
    for pattern in (f"{_MERGED}*", f".{_MERGED}*", _CONVERTED):
        for folder in work_folder.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)
