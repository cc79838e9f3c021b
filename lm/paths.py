"""Paths in a settings file, as the one sees them who works in the file's folder."""

from __future__ import annotations

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


def found_in(folder: Path) -> Path | None:
    """Return what stands in the way of a new folder: a file of its name, or the first within it."""
    if folder.is_dir():
        return min(folder.iterdir(), default=None)
    return folder if folder.exists() else None
