"""The releases that a ledger folder keeps, as witnesses of what its log must know.

A training is noted as begun, on the disk and with the request that it answers, before its first
step, and its release is stored after the last. So a stored release whose request the log does not
know is no trace of a crash: the log lost lines, and the cost in them would be given out anew.

Covers: a log that is gone, empty, cut, or older than the releases beside it.
Does not cover: a folder that is older as a whole; cost of which no release is stored. A list of
units without a reservation says nothing: it is written first, and a crash may leave it behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from protocol.documents import Json
from protocol.errors import BudgetError

_RELEASE: Final = re.compile(r"([0-9a-f]{64})\.release")
"""Name of a stored release. What killed writes, backups and desktops leave has other names."""


def release_path(ledger_folder: Path, request_digest: str) -> Path:
    """Return where the release lies that a request was answered with.

    Args:
        ledger_folder: The ledger's folder.
        request_digest: 64 lower-case hexadecimal digits. It becomes a file name, so the caller has
            checked it.
    """
    return ledger_folder / "releases" / f"{request_digest}.release"


def stored_requests(ledger_folder: Path) -> frozenset[str]:
    """List the digests of the requests whose releases are stored.

    Args:
        ledger_folder: The ledger's folder; it need not be there.

    Returns:
        The digests.
    """
    names = (_RELEASE.fullmatch(path.name) for path in (ledger_folder / "releases").glob("*"))
    return frozenset(name[1] for name in names if name)


def check_log(ledger_folder: Path, entries: Sequence[Mapping[str, Json]]) -> None:
    """Refuse a log that does not know what the releases beside it were trained under.

    Args:
        ledger_folder: The ledger's folder; the caller holds its lock.
        entries: The log's entries, oldest first.

    Raises:
        BudgetError: A release is stored whose training the log does not know as begun.
    """
    # A line for the start of a training is on the disk before its first step, so it is known also
    # where a crash came between storing a release and noting it.
    known = {entry["request_digest"] for entry in entries if "request_digest" in entry}
    unexplained = stored_requests(ledger_folder) - known
    # Privacy: a log that lost lines would give out anew what they say was spent.
    if unexplained:
        raise BudgetError(
            f"Expected {ledger_folder / 'ledger.jsonl'} to hold the start of every training whose "
            f"release is stored beside it, found {len(unexplained)} in releases/ "
            f"without one: the file was lost, emptied, cut or replaced by an older one. Restore "
            f"it from the newest backup and leave releases/ as it is; never go on without, for "
            f"what was spent on these records would be forgotten."
        )
