"""The clients' private records, for what only a simulation may do: it owns both parties."""

from __future__ import annotations

from dataclasses import replace

from client_side.folder import ClientFolder
from client_side.records import PrivateRecord, load_records
from server_side.shared_stages import file_digest
from simulations.prepare import RECORDS_FILE


def read_owned_records(client: ClientFolder) -> tuple[PrivateRecord, ...]:
    """Read one client's records as the client itself does.

    Args:
        client: The client's folder.

    Returns:
        The records.

    Privacy:
        Output is private. A simulation may use it because it made the records or was given them;
        no code of the server's package receives it.
    """
    config = client.load_config()
    return load_records(replace(config.records, path=client.records_path(config)))


def records_digest(client: ClientFolder) -> str | None:
    """Return the SHA-256 of one client's records, as they were laid out for it.

    Args:
        client: The client's folder.

    Returns:
        64 hexadecimal digits, or None where the file cannot be read any more: that client refuses,
        and a run may go on without it.
    """
    try:
        return file_digest(client.path / RECORDS_FILE)
    except OSError:
        return None
