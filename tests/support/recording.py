"""A relay on loopback that keeps every byte of the connections that go through it, both ways.

Flower's nodes speak HTTP/1.1 with their link. `Recording.messages` takes that apart, undoes chunks
and refuses what it cannot take apart, so that a search never looks at packed or torn bytes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Recording:
    """One direction of one connection."""

    raw: bytearray = field(default_factory=bytearray)
    """Every byte as it came."""

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Give head and body of each HTTP message, chunks put together again.

        Raises:
            ValueError: This is not HTTP/1.1, or a body is packed.
        """
        rest = bytes(self.raw)
        while rest:
            head, blank, rest = rest.partition(b"\r\n\r\n")
            start, *lines = head.split(b"\r\n")
            if not blank or b"HTTP/1.1" not in start:
                raise ValueError(f"Expected an HTTP/1.1 message, found {start[:40]!r}.")
            fields = dict(line.lower().split(b": ", 1) for line in lines)
            if fields.get(b"content-encoding", b"identity") != b"identity":
                raise ValueError(f"Expected a plain body, found {fields[b'content-encoding']!r}.")
            if fields.get(b"transfer-encoding") == b"chunked":
                body, rest = _unchunked(rest)
            else:
                size = int(fields.get(b"content-length", b"0"))
                body, rest = rest[:size], rest[size:]
            yield head, body


@dataclass
class Connection:
    """What went to the server over one connection, and what came back."""

    sent: Recording = field(default_factory=Recording)
    """From the client to the server."""
    received: Recording = field(default_factory=Recording)
    """From the server to the client."""


class Relay:
    """Listens on a port of its own and hands everything on to one address.

    Args:
        port: Port on loopback to hand on to; nothing need listen there yet.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.connections: list[Connection] = []
        host, port = self._listener.getsockname()
        self.address = f"{host}:{port}"
        """Host and port to connect to."""
        self._run(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; what was recorded stays."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(self._target, timeout=10)
                except OSError:
                    client.shutdown(socket.SHUT_RDWR)
                    continue
                server.settimeout(None)
                self._sockets.append(server)
                connection = Connection()
                self.connections.append(connection)
                self._run(self._pump, client, server, connection.sent)
                self._run(self._pump, server, client, connection.received)

    def _pump(self, source: socket.socket, sink: socket.socket, recording: Recording) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                # Kept first: nothing can pass that is not in the recording.
                recording.raw += data
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    """Give a chunked body in one piece, and what comes after it."""
    pieces = []
    while True:
        size_text, _, data = data.partition(b"\r\n")
        size = int(size_text.split(b";")[0], 16)
        pieces.append(data[:size])
        data = data[size + 2 :]
        if size == 0:
            return b"".join(pieces), data
