"""A disk that is full or refuses, in words, whichever library meets it; and folders written whole.

Python raises an OSError. Libraries in Rust and torch raise types of their own with the reason in
their text, and would end a command in a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lm.errors import DiskError

_TROUBLE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM}
)
_RUST_NUMBER: Final = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers quote the number of an error of the system."""
_TORCH_WRITE: Final = re.compile(r"PytorchStreamWriter|unexpected pos \d+ vs|write\(\): fd \d+")
"""How torch says that a file could not be written; it does not say why."""


def disk_trouble(error: BaseException) -> str | None:
    """Say what is wrong with the disk, where an error is the disk's.

    Args:
        error: Any error.

    Returns:
        Full, broken, read-only, or closed to this user; None where it is something else.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if match := _RUST_NUMBER.search(text):
        number = int(match[1])
    if number in _TROUBLE:
        return os.strerror(number)
    if isinstance(error, RuntimeError) and _TORCH_WRITE.search(text):
        return "a write that failed, most likely because the disk is full"
    return None


@contextlib.contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into one that says what to do.

    Args:
        path: What was to be written, or where; named where the error names no file itself.

    Yields:
        Nothing.

    Raises:
        DiskError: The disk is full, broken or read-only, or permissions are missing.
    """
    try:
        yield
    except Exception as error:
        reason = disk_trouble(error)
        if reason is None:
            raise
        raise DiskError(_mending(getattr(error, "filename", None) or path, reason)) from error


def in_words(error: Exception, *, place: Path | str = "the disk") -> str:
    """Say in one line what went wrong, for a command to end with.

    Args:
        error: One that brings its own words, or an error of the system, which brings a number.
        place: Where the command works; named where the error names no file itself.

    Returns:
        What went wrong and what to do.
    """
    if not isinstance(error, OSError):
        return str(error)
    if reason := disk_trouble(error):
        return _mending(error.filename or place, reason)
    if error.filename is None:
        return str(error)
    return (
        f"Expected to be able to use {error.filename2 or error.filename}, found: "
        f"{error.strerror}. Name another place, or mend this one."
    )


def write_folder(folder: Path, fill: Callable[[Path], None], *, replaces: bool = False) -> None:
    """Let `fill` write into a folder that gets its name only when all of it is on disk.

    Args:
        folder: Where.
        fill: Writes files into the folder that it is given.
        replaces: Take away a folder that has the name; otherwise whoever was quicker is right.

    Raises:
        DiskError: The disk is full or refuses.
    """
    with clear_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            fill(part)
            part.chmod(0o755)  # mkdtemp makes folders for the owner alone
            for path in part.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            if replaces:
                shutil.rmtree(folder, ignore_errors=True)
            try:
                part.rename(folder)
            except OSError:
                if replaces or not folder.is_dir():  # unless another process was quicker
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _mending(place: Path | str, reason: str) -> str:
    return (
        f"Expected to be able to use {place}, found: {reason}. Make room or change permissions, "
        "and start the same command again; what is whole is not done again."
    )
