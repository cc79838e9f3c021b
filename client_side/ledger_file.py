"""An append-only file that survives `kill -9` at any byte, and two processes at once.

Each line is one entry in canonical JSON with a keyed hash over itself and the line before, so a
changed, removed or reordered line inside the file is noticed. An entry counts once its line is
complete; an append returns only after the line has reached the disk. What a killed append leaves
behind is an incomplete last line, which nobody was ever told about; it is cut off by the next.

Covers: torn writes, full disks, concurrent processes on one machine, edits without the key.
Does not cover: lines that are gone from the end, or an old copy, unless a stored release stems from
what they lack (`client_side/stored_releases.py`); a network file system without working locks. Keep
the folder on a local disk; back it up after each run, and never restore an older copy over a newer
one (docs/deploying.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from protocol.documents import Json, dump_canonical, parse_canonical
from protocol.errors import BudgetError, MalformedMessageError

_NO_PREVIOUS: Final = "0" * 64


class LineNotWrittenError(BudgetError):
    """The disk did not take a line; the file is as it was."""


class LedgerFile:
    """A chained, fsynced, locked file of JSON entries.

    Args:
        path: The file; created by the first append.
        key: Secret under which lines are hashed.
    """

    def __init__(self, path: Path, *, key: bytes) -> None:
        self._path = path
        self._key = key

    def read(self) -> tuple[dict[str, Json], ...]:
        """Read all complete entries. The caller holds the lock.

        Returns:
            Entries, oldest first.

        Raises:
            BudgetError: A line inside the file is not what was written.
        """
        entries, _, _ = self._load()
        return entries

    def append(self, entry: dict[str, Json]) -> None:
        """Write one entry and wait until it is on the disk. The caller holds the lock.

        Args:
            entry: What to keep.

        Raises:
            LineNotWrittenError: The disk does not take the line; the file is as it was.
            BudgetError: The file was changed from outside.
        """
        entries, previous, num_good_bytes = self._load()
        number = len(entries)
        line = dump_canonical(
            {"entry": entry, "hash": self._hash(entry, number, previous), "number": number}
        )
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, num_good_bytes)
            try:
                _write_all(file, line + b"\n", offset=num_good_bytes)
                # Privacy: on the disk before the caller trains; a power cut refunds nothing.
                os.fsync(file)
            except OSError as error:
                # A full disk: take back what was written, so that the next reader finds it whole.
                os.ftruncate(file, num_good_bytes)
                raise LineNotWrittenError(
                    f"Expected to write {len(line) + 1} bytes to {self._path}, found: "
                    f"{error.strerror}. Free some space and ask again; this line was not written."
                ) from None
        finally:
            os.close(file)
        if number == 0:
            sync_folder(self._path.parent)

    def _load(self) -> tuple[tuple[dict[str, Json], ...], str, int]:
        """Give entries, the hash of the last one, and the length of the complete part."""
        data = self._path.read_bytes() if self._path.exists() else b""
        num_good_bytes = data.rfind(b"\n") + 1
        entries: list[dict[str, Json]] = []
        previous = _NO_PREVIOUS
        for number, line in enumerate(data[:num_good_bytes].splitlines()):
            try:
                document = parse_canonical(line)
            except MalformedMessageError:
                raise self._damaged(number) from None
            if not isinstance(document, dict) or set(document) != {"entry", "hash", "number"}:
                raise self._damaged(number)
            entry, found = document["entry"], document["hash"]
            if not isinstance(entry, dict) or not isinstance(found, str):
                raise self._damaged(number)
            expected = self._hash(entry, number, previous)
            if document["number"] != number or not hmac.compare_digest(expected, found):
                raise self._damaged(number)
            entries.append(entry)
            previous = expected
        return tuple(entries), previous, num_good_bytes

    def _hash(self, entry: dict[str, Json], number: int, previous: str) -> str:
        content = dump_canonical([previous, number, entry])
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def _damaged(self, number: int) -> BudgetError:
        return BudgetError(
            f"Expected line {number + 1} of {self._path} as it was written, found it changed. "
            f"Restore the file together with its folder; nothing is released until then."
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against every other process and thread that asks the same way.

    Args:
        folder: An existing folder; its file `lock` carries the lock and stays.

    Yields:
        Nothing; the lock is given back at the end, and by the kernel if this process dies.
    """
    # Each entry opens the file anew, so two threads of one process exclude each other as well.
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there completely or not at all, readable by its owner alone.

    Args:
        path: Where the file shall stand; an older one is replaced.
        data: Its content.

    Raises:
        BudgetError: The disk does not take it; nothing changed then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            _write_all(file, data, offset=0)
            # Privacy: before the name points at it, so that no power cut leaves half a list of
            # units, an empty key or a torn release behind.
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BudgetError(
            f"Expected to write {len(data)} bytes to {path}, found: {error.strerror}. "
            f"Free some space and ask again."
        ) from None
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        # Privacy: a ledger or key whose name is lost would begin at zero again.
        os.fsync(file)
    finally:
        os.close(file)


def _write_all(file: int, data: bytes, *, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
