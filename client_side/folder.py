"""A client's own folder: settings, records, keys, ledger and working files, for its eyes only.

```
client_node.yaml   settings: the client's policy, from this disk alone
network.yaml       server, pinned bundle and port, beside keys, introduction.json and the server's
                   certificate: see `client_side/network.py`
records.jsonl      private records (or elsewhere, by `records.path`)
signing_key        Ed25519 private key, 32 raw bytes
ledger/            lifetime ledger and stored releases
work/              merged models, and in training/ how far an unfinished training is: deleted while
                   one is cut off, that training is paid for and cannot go on
status.json        how far the client is, for its operator
node.json          how its node is, beside flower/, bin/, client_process and .running: see
                   `client_side/supervising.py`
```
The folder is readable by its owner only, and so is every file that this module makes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from client_side.config import ClientConfig
from client_side.egress import load_signing_key
from lm.paths import seen_from
from lm.settings import load_settings, save_settings
from protocol.errors import ConfigurationError

SETTINGS_FILE = "client_node.yaml"
"""Name of the settings file in a client's folder."""

FOLDER_KEY: Final = "client-folder"
"""Key of Flower's node configuration that names the client's folder."""

SERVER_KEY: Final = "server-address"
"""Key of Flower's node configuration that names the server which this node connects to."""

SIMULATED_VARIABLE: Final = "REWARDDS_SIMULATED_NODE"
"""Environment variable by which a simulation says that a node is its own. Without it a node is a
real one, whoever started it, and takes none of a simulation's liberties."""

_PRIVATE_FOLDER_MODE = 0o700
_PRIVATE_FILE_MODE = 0o600


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientFolder:
    """Where one client keeps what is its own."""

    path: Path
    """The folder."""

    @property
    def settings_file(self) -> Path:
        """The client's settings."""
        return self.path / SETTINGS_FILE

    @property
    def ledger_folder(self) -> Path:
        """The lifetime ledger."""
        return self.path / "ledger"

    @property
    def work_folder(self) -> Path:
        """Working files of a training."""
        return self.path / "work"

    @property
    def status_file(self) -> Path:
        """How far the client is."""
        return self.path / "status.json"

    def load_config(self) -> ClientConfig:
        """Read the settings.

        Returns:
            The client's settings.

        Raises:
            SettingsError: The file cannot be read or has an unknown key.
            ConfigurationError: A value is out of range.
        """
        # Privacy: a file that lost its end must not be read as one that allows the default budget.
        config = load_settings(ClientConfig, self.settings_file, whole=("budget", "records"))
        return replace(config, base_model=seen_from(self.path, config.base_model))

    def records_path(self, config: ClientConfig) -> str:
        """Return where the records lie, seen from this process.

        Args:
            config: The client's settings.

        Returns:
            `records.path`; a relative one lies in this folder.
        """
        return seen_from(self.path, config.records.path)

    def public_prompts_path(self, config: ClientConfig) -> str | None:
        """Return where the public prompts lie, seen from this process.

        Args:
            config: The client's settings.

        Returns:
            `preferences.public_prompts_path`, resolved like `records.path`; None where none is set.
        """
        path = config.preferences.public_prompts_path
        return None if path is None else seen_from(self.path, path)

    def write_status(self, status: Mapping[str, object]) -> None:
        """Tell the operator how far the client is.

        Args:
            status: JSON values.

        Privacy:
            Counts of drawn records can stand in it. It is a file on the client's disk and is part
            of no message.
        """
        write_private_file(self.status_file, json.dumps(status).encode())


def make_client_folder(path: Path, config: ClientConfig) -> ClientFolder:
    """Make a client's folder with settings and a fresh key.

    Args:
        path: Where; made if absent.
        config: The client's settings.

    Returns:
        The folder. One that has settings or a key already keeps its key.

    Raises:
        OSError: The disk refuses.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(_PRIVATE_FOLDER_MODE)
    folder = ClientFolder(path=path)
    load_signing_key(path)
    with private_file(folder.settings_file) as part:
        save_settings(config, part)
    for subfolder in (folder.ledger_folder, folder.work_folder):
        subfolder.mkdir(exist_ok=True, mode=_PRIVATE_FOLDER_MODE)
    return folder


def check_findable(folder: ClientFolder) -> None:
    """Refuse a folder in which a node would not find the programs that lie there.

    Args:
        folder: The client's folder; it need not exist yet.

    Raises:
        ConfigurationError: The separator of search paths stands in its path.
    """
    path = folder.path.resolve()
    # Privacy: a search path would fall apart there, and Flower's own client process, which knows of
    # no pinned bundle, would be found in the place of ours.
    if os.pathsep in str(path):
        raise ConfigurationError(
            f"Expected a folder without {os.pathsep!r} in its path, found {path}. Rename the "
            "folder that has it, or take another one."
        )


@contextmanager
def private_file(path: Path, *, mode: int = _PRIVATE_FILE_MODE) -> Iterator[Path]:
    """Let a file be written that stands there as a whole or as it was before.

    Args:
        path: Where it shall stand.
        mode: Its permissions, from its first moment on.

    Yields:
        An empty file beside it, to be written in place; it takes the name when all is on the disk.

    Raises:
        OSError: The disk refuses.
    """
    # Two processes may write the same file; each has its own until it is whole.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        os.fchmod(descriptor, mode)
        os.close(descriptor)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_private_file(path: Path, data: bytes, *, mode: int = _PRIVATE_FILE_MODE) -> None:
    """Write a file that its owner alone may read; it is there as a whole or as it was before.

    Args:
        path: Where.
        data: What.
        mode: Its permissions, from its first moment on.

    Raises:
        OSError: The disk refuses.
    """
    with private_file(path, mode=mode) as part:
        part.write_bytes(data)


def read_status(file: Path, *, keys: Set[str]) -> dict[str, Any] | None:
    """Read a file in which a process notes how far it is.

    Args:
        file: Where.
        keys: What must stand in it.

    Returns:
        JSON values; None where there is no such file.

    Raises:
        ConfigurationError: It is not what was written.
    """
    if not file.is_file():
        return None
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # also what is no UTF-8
        status = None
    if not isinstance(status, dict) or not keys <= status.keys():
        raise ConfigurationError(
            f"Expected {file} as it was written, found it damaged. Remove it; it tells how far "
            "this client is and nothing else, and is written anew."
        )
    return status
