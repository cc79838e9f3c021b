"""A server's own folder: network settings, keys, the list of allowed clients and the run's files.

```
server_node.yaml   settings of the models and of every stage
network.yaml       address, ports, deadlines, logs: see `server_side/exchange/network.py`
tls/               authority and server certificate, each with its private key
clients/           one introduction for each client that may connect
invitation.json    what a client's operator needs
flower/            the link's database and Flower's own files
logs/              what each process wrote
provenance.json    command and versions of each start
releases/, starts/ what was admitted, and the starting weights that admission compares it with
07_queries.jsonl … the run itself (see `server_side/run_store.py`)
```
One folder is one run. Private keys are readable by their owner only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lm.commented_settings import save_commented_settings
from lm.paths import found_in, seen_from
from lm.settings import load_settings
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig
from server_side.exchange.network import MAX_PORT, NetworkConfig
from server_side.whole_files import write_atomically

SETTINGS_FILE: Final = "server_node.yaml"
"""Name of the settings of models and stages in a server's folder."""

NETWORK_FILE: Final = "network.yaml"
"""Name of the network settings in a server's folder."""

_PRIVATE_FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerFolder:
    """Where one server keeps what is its own."""

    path: Path
    """The folder."""

    @property
    def network_file(self) -> Path:
        """Network settings."""
        return self.path / NETWORK_FILE

    @property
    def settings_file(self) -> Path:
        """Settings of models and stages."""
        return self.path / SETTINGS_FILE

    @property
    def tls_folder(self) -> Path:
        """Certificates and their keys."""
        return self.path / "tls"

    @property
    def clients_folder(self) -> Path:
        """Introductions of allowed clients."""
        return self.path / "clients"

    @property
    def invitation_file(self) -> Path:
        """What a client's operator needs."""
        return self.path / "invitation.json"

    @property
    def flower_home(self) -> Path:
        """Flower's own files."""
        return self.path / "flower"

    @property
    def logs_folder(self) -> Path:
        """What each process wrote."""
        return self.path / "logs"

    @property
    def collecting_file(self) -> Path:
        """Held by the one exchange that may be under way."""
        return self.path / ".collecting"

    def load_network(self) -> NetworkConfig:
        """Read the network settings.

        Raises:
            SettingsError: The file cannot be read or has an unknown key.
            ConfigurationError: A value is out of range.
        """
        return load_settings(NetworkConfig, self.network_file)

    def load_config(self) -> ServerConfig:
        """Read the settings of models and stages; a relative `base_model` lies in this folder.

        Raises:
            SettingsError: The file cannot be read or has an unknown key.
            ConfigurationError: A value is out of range.
        """
        config = load_settings(ServerConfig, self.settings_file)
        # The exchange looks for it as well, and is no process of the caller's folder.
        return replace(config, base_model=seen_from(self.path.resolve(), config.base_model))

    def run_id(self) -> str:
        """Return the run's name, which releases are bound to; made once for a folder."""
        file = self.path / "run_id"
        # An empty file is what a full disk left of a name that nobody was told.
        if not file.is_file() or not file.read_text(encoding="utf-8").strip():
            name = f"{self.path.resolve().name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            safe = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
            write_atomically(file, safe[-60:].lstrip("-"))
        return file.read_text(encoding="utf-8").strip()


def make_server_folder(path: Path, *, host: str, port: int) -> ServerFolder:
    """Make a server's folder with commented settings.

    Args:
        path: Where; made if absent.
        host: Name or address by which clients reach the server.
        port: Port that clients reach.

    Returns:
        The folder, without certificates yet.

    Raises:
        ConfigurationError: Something is there already, or host or port cannot be.
        OSError: The disk refuses.
    """
    folder = ServerFolder(path=path)
    network = NetworkConfig(host=host, port=port, local_port=port + 1 if port < MAX_PORT else 9444)
    if found := found_in(path):
        raise ConfigurationError(
            f"Expected a new folder, found {found}. Name another folder, or edit what is there."
        )
    path.mkdir(mode=_PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
    path.chmod(_PRIVATE_FOLDER_MODE)
    for subfolder in (folder.tls_folder, folder.clients_folder, folder.flower_home):
        subfolder.mkdir(mode=_PRIVATE_FOLDER_MODE)
    save_commented_settings(
        ServerConfig(),
        folder.settings_file,
        head=(
            "What this server does with releases. Name your models and your public test records",
            "(evaluation.path). Sizes are for a target of 135M parameters on two CPU cores;",
            "docs/deploying.md says what to raise with an accelerator. An unknown key is an error.",
        ),
    )
    save_commented_settings(
        network,
        folder.network_file,
        head=("How clients reach this server. After a change of host: rewardds-server renew.",),
    )
    return folder


def write_private_file(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read, from its first moment on.

    Args:
        path: Where.
        data: What.
    """
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
    part.replace(path)
