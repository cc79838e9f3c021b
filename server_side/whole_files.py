"""Files that are whole or not there: how they are written, and how they are read back.

Run folders are read again after a kill, a power cut or a full disk, days later, by this code or by
its user. What is found there is either whole or refused in words.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from lm.disk import clear_disk_errors
from protocol.errors import StageError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is either whole or not there, also after a power cut.

    Args:
        path: The file, in a folder that is there; an older one is replaced.
        text: What it is to hold, written as UTF-8 with line ends as they are.

    Raises:
        DiskError: The disk is full or refuses.
    """
    part = path.with_name(f".{path.name}.part")
    with clear_disk_errors(path):
        try:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def read_json(path: Path) -> Any:  # a JSON value
    """Read a JSON file that was written here before.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: It is not there.
        StageError: It holds no JSON: something else cut or changed it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise StageError(
            f"Expected {path} as it was written, found no JSON in it: it was cut or changed since. "
            "Restore it from a copy, or begin anew in another folder."
        ) from None


def copy_folder(source: Path, destination: Path) -> None:
    """Copy a folder; the copy replaces an older one and appears only when whole.

    Args:
        source: The folder.
        destination: What the copy is called; the folder above it is there.

    Raises:
        DiskError: The disk is full or refuses.
    """
    part = destination.with_name(f".{destination.name}.part")
    with clear_disk_errors(destination):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        for file in files_under(part):
            sync(file)
        shutil.rmtree(destination, ignore_errors=True)
        part.rename(destination)


def files_under(folder: Path) -> list[Path]:
    """Return all files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
