"""The finished records and how they are written to disk: what the rest of the project sees."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

INSTRUCTION = (
    "You are a clinician who answers messages on a clinic's patient portal. "
    "Answer briefly, say what to do next and when to be seen."
)
"""The public instruction of this domain; it is the system turn of every rendered chat."""


class Split(StrEnum):
    """Which part of the records a message belongs to; the two share no prompt."""

    TRAIN = "train"
    """Records for the clients."""
    TEST = "test"
    """Public prompts with reference responses, in wordings that no training prompt has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClinicMessage:
    """One fictional message to the clinic's portal with the clinician's answer."""

    prompt: str
    """What the person wrote."""
    response: str
    """What the clinic answered."""
    patient_id: str
    """Who wrote it; the same for all messages of one person, unique to seed and split."""
    topic: str
    """Name of the complaint, the same in both splits."""


def write_messages(path: Path, messages: Iterable[ClinicMessage]) -> None:
    """Write messages as JSON lines, whole or not at all.

    Args:
        path: The file to write; its folder is made where missing, an old file is replaced.
        messages: What to write, one line each, with the keys of `ClinicMessage`.

    Raises:
        OSError: The file cannot be written; nothing stands under `path` that was not there before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(temporary_name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for message in messages:
                file.write(json.dumps(asdict(message), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
