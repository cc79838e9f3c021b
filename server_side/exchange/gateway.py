"""The one door to clients: passes the fleet paths of Flower's link, for allowed keys, and no more.

Flower 1.41 serves everything on one port: the paths that nodes need (`/v1/fleet/…`), those that
start and stop runs and change who may connect (`/v1/control/…`, without a login), those of its own
executors (`/v1/runtime/…`) and a page of documentation. So the link listens on loopback alone, and
this process, on the port that clients reach, forwards an explicit list of paths.

Order of checks, cheap before costly: path and method; the node key in the header against the
allow-list; the announced length; then the body, counted while it comes. Whether the sender owns
that key is what the link checks, by a signature.

Covers: control and runtime paths from outside; keys that are not listed, from the moment the file
of one is gone; bodies beyond a limit; TLS.
Does not cover: other users of this machine, who reach the link on loopback; a flood of connections
beyond `max_connections`, which shuts others out.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import uvicorn
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lm.logs import last_word, set_up_logs
from lm.telemetry import switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError
from server_side.exchange.certificates import TlsFiles
from server_side.exchange.clients import load_clients, node_key_bytes
from server_side.exchange.folder import ServerFolder
from server_side.exchange.network import LOOPBACK, NetworkConfig, check_listening

FLEET_PATHS: Final = tuple(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
"""All that passes. A node may neither register nor unregister itself: the operator does."""

KEY_HEADER: Final = "flwr-public-key"
"""Header in which Flower's nodes name their key."""

_PASSED_HEADERS: Final = ("content-type", "accept")
_PASSED_PREFIX: Final = "flwr-"
_MAX_HEADER_CHARS: Final = 4096
_LINK_SECONDS: Final = 60.0
_KEEP_ALIVE_SECONDS: Final = 30
# By name: run with `python -m`, this module is called `__main__`, and its log would be nobody's.
_LOGGER = logging.getLogger("server_side.exchange.gateway")


class AllowedKeys:
    """The node keys of the allow-list, read again whenever the folder changes."""

    def __init__(self, folder: Path) -> None:
        """Name the allow-list.

        Args:
            folder: Folder of the introductions.
        """
        self._folder = folder
        self._state: object = None
        self._keys: frozenset[bytes] = frozenset()

    def holds(self, header: str) -> bool:
        """Tell whether a key header names an allowed key.

        Args:
            header: The header as it came.

        Returns:
            False also for a header that is too long or no key, and for all of them while the list
            cannot be read.
        """
        if not 0 < len(header) <= _MAX_HEADER_CHARS:
            return False
        try:
            key = load_pem_public_key(base64.b64decode(header, validate=True))
        except (ValueError, binascii.Error, UnsupportedAlgorithm):
            return False
        # Compared in one form: the same key can be written in several.
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) in self._read()

    def _read(self) -> frozenset[bytes]:
        try:
            files = sorted(self._folder.iterdir())
            state = [(file.name, file.stat().st_mtime_ns) for file in files]
            if state != self._state:
                known = load_clients(self._folder).values()
                self._keys = frozenset(node_key_bytes(item) for item in known)
                self._state = state
        except (RewardDSError, OSError) as error:
            # A list that cannot be read lets nobody in, until it can: a file may have been taken
            # away just now.
            self._keys, self._state = frozenset(), None
            _LOGGER.error("No client is let in: %s", error)
        return self._keys


def build_gateway(
    *, link: str, verify: ssl.SSLContext | bool, keys: AllowedKeys, max_request_bytes: int
) -> Starlette:
    """Build the gateway.

    Args:
        link: Base URL of the link on loopback.
        verify: How to check the link's certificate.
        keys: Who is let in.
        max_request_bytes: Largest body that is taken.

    Returns:
        An ASGI application.
    """
    # `trust_env=False`: a proxy in the environment must never see what clients send.
    client = httpx.AsyncClient(base_url=link, verify=verify, timeout=_LINK_SECONDS, trust_env=False)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def forward(request: Request) -> Response:
        if not keys.holds(request.headers.get(KEY_HEADER, "")):
            return Response(status_code=401)
        body = bytearray()
        try:
            if int(request.headers.get("content-length", "0")) > max_request_bytes:
                return Response(status_code=413)
            async for piece in request.stream():
                body += piece
                if len(body) > max_request_bytes:
                    return Response(status_code=413)
        except (ValueError, ClientDisconnect):
            return Response(status_code=400)
        headers = _passed(request.headers)
        try:
            answer = await client.post(request.url.path, content=bytes(body), headers=headers)
        except httpx.TransportError as error:
            _LOGGER.warning("The link does not answer (%s).", type(error).__name__)
            # Flower's nodes try again on this code.
            return Response(status_code=503)
        return Response(
            answer.content, status_code=answer.status_code, headers=_passed(answer.headers)
        )

    routes = [Route(path, forward, methods=["POST"]) for path in FLEET_PATHS]
    return Starlette(routes=routes, lifespan=lifespan)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name in _PASSED_HEADERS or name.startswith(_PASSED_PREFIX)
    }


def main() -> None:
    """Serve the gateway of a server's folder until told to stop."""
    switch_off_telemetry()
    parser = argparse.ArgumentParser(
        prog="python -m server_side.exchange.gateway", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="the server's folder")
    folder = ServerFolder(path=parser.parse_args().folder)
    network = folder.load_network()
    set_up_logs("server_side", form=network.log_format, level=network.log_level)
    run_gateway(folder, network)


def run_gateway(folder: ServerFolder, network: NetworkConfig) -> None:
    """Serve the gateway of a server's folder until told to stop.

    Args:
        folder: The server's folder.
        network: Its network settings.
    """
    files = TlsFiles.within(folder.tls_folder)
    server = uvicorn.Server(
        uvicorn.Config(
            build_gateway(
                link=f"https://{LOOPBACK}:{network.local_port}",
                verify=ssl.create_default_context(cafile=str(files.authority)),
                keys=AllowedKeys(folder.clients_folder),
                max_request_bytes=network.max_request_bytes,
            ),
            host=network.listen,
            port=network.port,
            ssl_certfile=str(files.certificate),
            ssl_keyfile=str(files.key),
            limit_concurrency=network.max_connections,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            access_log=False,
            server_header=False,
            log_config=None,
            ws="none",
        )
    )
    try:
        # Before uvicorn does: what that says names neither the setting nor what to do.
        check_listening(network.listen, port=network.port)
    except ConfigurationError as error:
        sys.exit(last_word(str(error)))
    server.run()
    if not server.started:
        sys.exit(1)  # its log says why


if __name__ == "__main__":
    main()
