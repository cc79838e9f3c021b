"""How clients reach this server: host, ports, deadlines and logs, from `network.yaml`."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from lm.logs import LogFormat, LogLevel
from protocol.errors import ConfigurationError
from server_side.config.checks import require, require_counts, require_positive

LOOPBACK: Final = "127.0.0.1"
"""Where everything listens that is nobody else's business."""
MAX_PORT: Final = 65_535
"""Largest port there is."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How clients reach this server, and how long it waits for them."""

    host: str = "localhost"
    """Name or address by which clients reach this server; it stands in its certificate."""
    port: int = 9443
    """Port that clients reach; the only one that others need."""
    listen: str = "0.0.0.0"  # noqa: S104 - clients are elsewhere; only fleet paths pass
    """Address on which that port is opened."""
    local_port: int = 9444
    """Port of the link itself on loopback. Never forward it: it obeys whoever reaches it."""
    num_clients: int = 0
    """Clients to wait for before anybody is asked; 0 takes min_clients of server_node.yaml."""
    wait_seconds: float = 3600.0
    """How long to wait for them; with at least min_clients there it then goes on."""
    hello_seconds: float = 600.0
    """How long a client may take to introduce itself."""
    deadline_seconds: float = 43_200.0
    """How long a client may take for each of its two releases, interruptions included."""
    max_request_bytes: int = 16 * 1024 * 1024
    """Largest single request that is taken; Flower sends a release in pieces of 5 MiB."""
    max_connections: int = 256
    """Connections at a time."""
    log_format: LogFormat = LogFormat.LINES
    """lines for people, json for a collector."""
    log_level: LogLevel = LogLevel.INFO
    """debug, info, warning or error."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(is_host(self.host), "network.host", "a host name or an address", self.host)
        require(bool(self.listen), "network.listen", "an address", "nothing")
        for name in ("port", "local_port"):
            value = getattr(self, name)
            require(1 <= value <= MAX_PORT, f"network.{name}", "a port from 1 to 65535", value)
        require(
            self.port != self.local_port, "network.local_port", "another than port", self.local_port
        )
        require_positive("network", self, "wait_seconds", "hello_seconds", "deadline_seconds")
        require_counts("network", self, "max_request_bytes", "max_connections")
        require(self.num_clients >= 0, "network.num_clients", "0 or more", self.num_clients)

    @property
    def address(self) -> str:
        """HOST:PORT that clients connect to."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def check_listening(listen: str, *, port: int = 0) -> None:
    """Check that an address can be listened on here.

    Args:
        listen: The address, as `NetworkConfig.listen` names it.
        port: The port; 0 asks for the address alone, whoever may hold the port just now.

    Raises:
        ConfigurationError: It is no address of this machine, or the port cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # the latter for what no host is called
        where = f"{listen!r}, port={port}" if port else repr(listen)
        reason = getattr(error, "strerror", None) or "no such name"
        raise ConfigurationError(
            f"Expected to open listen={where}, as network.yaml says, found: {reason}. Name an "
            "address of this machine, 0.0.0.0 for all that it has, and a free port."
        ) from None


def is_host(text: str) -> bool:
    """Tell whether a text can be a host name or an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.rstrip(".").split(".")
        return 0 < len(text) <= 253 and all(
            0 < len(label) <= 63 and label.replace("-", "").isalnum() and label.isascii()
            for label in labels
        )
    return True
