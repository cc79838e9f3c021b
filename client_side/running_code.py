"""Which sources this process runs: what a certificate names as the code that trained.

A process keeps the code that it imported, however long it trains and whatever happens to the files
meanwhile. So their digest is taken once, when the client's app is imported, and a release is
refused where the files have changed since.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol.artifacts import digest_code
from protocol.errors import ConfigurationError


def code_digest() -> str:
    """Return the digest of the sources that can touch records, as they were at the import."""
    return _AT_IMPORT


def check_code() -> None:
    """Refuse to go on where the files are not those that this process runs.

    Raises:
        ConfigurationError: They were changed since.
    """
    found = _digest_on_disk()
    if found != _AT_IMPORT:
        raise ConfigurationError(
            f"Expected this process's own sources, {_AT_IMPORT[:16]}…, on the disk, found "
            f"{found[:16]}…: they were changed while it ran. Put them back and ask again, so that "
            "a training that was paid for goes on; or restart with the new ones and pay anew."
        )


def _digest_on_disk() -> str:
    root = Path(__file__).resolve().parent.parent
    return digest_code([root / name for name in ("client_side", "lm", "protocol")])


_AT_IMPORT: Final = _digest_on_disk()
