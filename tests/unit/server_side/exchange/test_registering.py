"""The link comes to know the nodes of the allow-list, and no other ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.proto.control_pb2 import RegisterNodeRequest, UnregisterNodeRequest

from protocol.errors import ConfigurationError
from protocol.introductions import Introduction
from server_side.exchange.certificates import TlsFiles
from server_side.exchange.clients import node_key_bytes
from server_side.exchange.registering import sync_nodes
from server_side.exchange.submitting import Link
from tests.unit.server_side.test_server_node import introduction


class Control:
    """A link's control interface, which knows some nodes and writes down what it is told."""

    def __init__(self, nodes: Mapping[int, Introduction], *, status: str = "online") -> None:
        self._nodes, self._status = nodes, status
        self.calls: list[tuple[str, object]] = []

    def ListNodes(self, _: object) -> SimpleNamespace:
        nodes = [
            SimpleNamespace(public_key=node_key_bytes(item), node_id=number, status=self._status)
            for number, item in self._nodes.items()
        ]
        return SimpleNamespace(nodes_info=nodes)

    def RegisterNode(self, request: RegisterNodeRequest) -> None:
        self.calls.append(("register", (request.name, request.public_key)))

    def UnregisterNode(self, request: UnregisterNodeRequest) -> None:
        self.calls.append(("unregister", request.node_id))

    def close(self) -> None:
        self.calls.append(("close", None))


def sync(
    control: Control, *allowed: Introduction, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flwr.supercore.control.ControlHttpClient.from_server_address", lambda *_, **__: control
    )
    link = Link(
        run_folder=folder,
        host="127.0.0.1",
        port=1,
        flower_home=folder,
        tls=TlsFiles.within(folder),
    )
    sync_nodes(link, {item.client_name: item for item in allowed})


def test_who_is_missing_is_registered_a_stranger_unregistered_and_who_is_there_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward, clinic = introduction("ward"), introduction("clinic")
    control = Control({1: ward, 2: introduction("stranger")})

    sync(control, ward, clinic, folder=tmp_path, monkeypatch=monkeypatch)

    assert control.calls == [
        ("unregister", 2),
        ("register", ("clinic", node_key_bytes(clinic))),
        ("close", None),
    ]


def test_a_key_that_the_link_has_unregistered_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was brought back by hand; the link's own error says neither who nor why."""
    kept = introduction("ward")
    control = Control({1: kept}, status="unregistered")

    with pytest.raises(ConfigurationError, match=r"node key of ward.*rotate-key"):
        sync(control, kept, folder=tmp_path, monkeypatch=monkeypatch)

    assert control.calls == [("close", None)]
