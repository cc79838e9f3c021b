"""Whether a confined program holds too much disk, seen from outside while it runs.

For `landlock` alone: it has no quota, RLIMIT_FSIZE bounds one file, and so nothing else would bound
all of them. With namespaces the scratch folder is a file system whose size the kernel keeps.

A file lives for as long as it has a name, or is open, or is mapped. The three are looked at in the
order in which a program can take them away, so that no file slips through between them.

Covers: files with a name; removed ones and such as never had a name (O_TMPFILE), while in use.
Does not cover: what is written between two looks; nameless files where the kernel hides a process
from its own user (an interpreter that may be run, but not read).
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

MAX_FILES: Final = 256
"""Most files at a time, as with namespaces; without a bound, empty ones could use up the disk's
inodes, and a look would take longer and longer."""

_BLOCK_BYTES: Final = 512  # of `st_blocks`, on every file system


def is_overfull(folder: str, pid: int | None, *, max_bytes: int, max_file_bytes: int) -> bool:
    """Return whether a program's files are too many, or together too large.

    Args:
        folder: The scratch folder, the one place in which it can write. It has no subfolders.
        pid: The program's process, not yet waited for; None where it is over.
        max_bytes: Most disk that its files may take together.
        max_file_bytes: Largest file that the kernel lets it write.

    Returns:
        True for more than `MAX_FILES` files, or more than `max_bytes` on disk.
    """
    sizes: dict[int, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = entry.stat(follow_symlinks=False)
                sizes[status.st_ino] = status.st_blocks * _BLOCK_BYTES
            if len(sizes) > MAX_FILES:
                return True
    if pid is not None:
        sizes |= _open_nameless(pid)
        for inode in _mapped_nameless(pid, folder):
            # Its size cannot be asked for without privileges, so that the largest counts.
            sizes.setdefault(inode, max_file_bytes)
    return len(sizes) > MAX_FILES or sum(sizes.values()) > max_bytes


def _open_nameless(pid: int) -> dict[int, int]:
    """Return by inode what the open files without a name take on disk."""
    sizes = {}
    # A process that ends closes what it has open, or can no longer be asked.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = descriptor.stat()
                if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                    sizes[status.st_ino] = status.st_blocks * _BLOCK_BYTES
    return sizes


def _mapped_nameless(pid: int, folder: str) -> set[int]:
    """Return the inodes of files of the folder that are mapped and have no name any more."""
    inside = os.fsencode(os.path.realpath(folder)) + b"/"
    inodes = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
            # Addresses, rights, offset, device, inode, and a name that may hold spaces.
            if line.endswith(b" (deleted)") and inside in line:
                inodes.add(int(line.split(maxsplit=5)[4]))
    return inodes
