"""The clients' private records, for what only a simulation may do: it owns both parties."""

from __future__ import annotations

from dataclasses import replace

from client_side.folder import ClientFolder
from client_side.records import PrivateRecord, load_records


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
