"""Tell the link which nodes may connect: the server's allow-list, and nobody else.

The gateway lets through listed keys only; this makes the link itself, which checks each request's
signature, know the same keys. It speaks the link's control interface, on loopback.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import httpx

from protocol.errors import ConfigurationError
from protocol.introductions import Introduction
from server_side.exchange.clients import node_key_bytes
from server_side.exchange.outcome import RunLostError
from server_side.exchange.submitting import Link

_LOGGER = logging.getLogger(__name__)
_UNREGISTERED: Final = "unregistered"


def sync_nodes(link: Link, clients: Mapping[str, Introduction]) -> None:
    """Register the nodes of allowed clients and unregister all others.

    Args:
        link: The link; it must be running, with TLS.
        clients: The allow-list.

    Raises:
        ConfigurationError: The link has unregistered the key of an allowed client.
        RunLostError: The link does not take it.
    """
    # Only now: Flower's generated modules take a while to import.
    from flwr.proto.control_pb2 import (
        ListNodesRequest,
        RegisterNodeRequest,
        UnregisterNodeRequest,
    )
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

    assert link.tls is not None
    wanted = {node_key_bytes(item): name for name, item in clients.items()}
    client = ControlHttpClient.from_server_address(
        link.address,
        insecure=False,
        root_certificates=str(link.tls.authority.resolve()),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="rewardds-server")],
    )
    try:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
        present = {node.public_key: node.node_id for node in nodes if node.status != _UNREGISTERED}
        for key, node_id in present.items():
            if key not in wanted:
                client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))
                _LOGGER.info("Unregistered node %d, which is not allowed any more.", node_id)
        gone = {node.public_key for node in nodes if node.status == _UNREGISTERED}
        for key, name in wanted.items():
            if key in gone:
                # Asked for it, the link answers with an error, and again at each start.
                raise ConfigurationError(
                    f"Expected a node key of {name} that was never revoked, found one that the "
                    f"link has unregistered for good. Revoke {name}, ask its operator to run "
                    "`rewardds-client rotate-key`, and allow the new introduction."
                )
            if key not in present:
                client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
                _LOGGER.info("Registered the node of %s.", name)
    except httpx.HTTPError as error:
        raise RunLostError(
            f"Expected the link at {link.address} to take the list of nodes, got "
            f"{type(error).__name__}. See its log in the server's folder."
        ) from None
    finally:
        client.close()
