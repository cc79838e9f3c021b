"""Paths in a settings file, as the one sees them who works in the file's folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path


def seen_from(folder: Path, path: str) -> str:
    """Return a path as seen from a folder, or a name that is no path as it is.

    Args:
        folder: Where the settings lie, and where whoever follows them works.
        path: What they say: a path, or the name of a model or data set.

    Returns:
        The path within the folder where it is there. So is one that only the caller's own folder
        has: it will be missed there, which is better told at once.
    """
    inside = folder / path
    return str(inside) if inside.exists() or Path(path).exists() else path


def expanded(path: str) -> Path:
    """Return a path with `~` as a home; that of a user unknown here stays a name, not to be found.

    Args:
        path: What a user typed.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def found_in(folder: Path) -> Path | None:
    """Return what stands in the way of a new folder: a file of its name, or the first within it."""
    if folder.is_dir():
        return min(folder.iterdir(), default=None)
    return folder if folder.exists() else None


@contextlib.contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Leave a new folder as it was, absent or empty, where what fills it fails.

    Args:
        folder: The folder; one that is in use is left alone.

    Yields:
        Nothing.
    """
    is_new, is_there = found_in(folder) is None, folder.is_dir()
    try:
        yield
    except BaseException:
        # Nothing was in it, so all that is there now was put there by what failed.
        for path in folder.iterdir() if is_new and folder.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if is_new and not is_there:
            shutil.rmtree(folder, ignore_errors=True)
        raise
