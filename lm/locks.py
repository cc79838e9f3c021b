"""A file that one process holds, so that a folder has one master, and a look at whether it is held.

The kernel lets go of it when the process ends, whichever way; a number noted in a file would stay.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_NUM_TRIES: Final = 20
_TRY_SECONDS: Final = 0.05


@contextmanager
def held(file: Path, *, busy: Exception) -> Iterator[None]:
    """Hold a file for as long as the block lasts.

    Args:
        file: The file; made if absent, and left behind.
        busy: Raised if another process holds it.

    Raises:
        Exception: `busy`.
        OSError: The disk refuses.
    """
    with file.open("w") as lock:
        for number in range(1, _NUM_TRIES + 1):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if number == _NUM_TRIES:
                    raise busy from None
            # Who looks whether it is held holds it for a moment himself.
            time.sleep(_TRY_SECONDS)
        yield


def is_held(file: Path) -> bool:
    """Tell whether another process, or another block of this one, holds a file.

    Args:
        file: The file.

    Returns:
        False also where it is absent.
    """
    if not file.is_file():
        return False
    with file.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
