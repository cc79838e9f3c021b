"""The server's Flower app: carries the exchange, stores what was admitted, and ends.

A ServerApp that is silent for a minute is failed by Flower, and a failed run cannot go on; so the
long work is a job of its own (`rewardds-server finetune`) over what is stored here.

Besides the app there is `BytesChannel`, the same exchange without Flower, for a run within one
process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from lm.logs import log_to_file
from protocol.errors import ConfigurationError, ProtocolError, RefusalCode
from protocol.messages import HelloReply, Refusal, Request
from protocol.wire import decode, decode_bytes, encode, encode_bytes, num_bytes
from server_side.exchange.clients import read_register
from server_side.exchange.collecting import (
    Content,
    Waiting,
    collect,
)
from server_side.exchange.folder import ServerFolder
from server_side.exchange.network import NetworkConfig
from server_side.exchange.outcome import RunLostError, read_outcome, write_outcome

_LOGGER = logging.getLogger(__name__)

FOLDER_VARIABLE: Final = "REWARDDS_SERVER_FOLDER"
"""Environment variable with the server's run folder, where `server_node.yaml` lies."""

LOG_FILE: Final = "exchange.log"
"""What the exchange logs, in the server's run folder."""

_MESSAGE_TYPES: Final = {
    "hello": "query.hello",
    "generator": "train.generator",
    "reward": "train.reward",
}

_CODE_MEANINGS: Final = {
    1: "its app could not be loaded; its operator has pinned another bundle than this server's",
    2: "its app failed before it could answer",
    3: "its answer did not arrive whole",
    4: "its answer was lost",
    5: "its node is away",
    7: "its operator does not trust this app bundle",
    8: "its process died",
}
_FINAL_CODES: Final = frozenset({1, 7})
_CRASH_CODES: Final = frozenset({2, 8})
_MAX_CRASHES: Final = 5
"""A client that dies again and again is left out, so that it cannot spend its budget on that."""

_MAX_REFUSAL_BYTES: Final = 1024
"""Nothing longer is looked into here; reading is for the gate, after its check of sizes."""

Endpoint = Callable[[str, bytes], bytes]
"""A client within this process: action and request in, reply out."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the exchange as the server's own folder says.

    Args:
        grid: Flower's way to the nodes.
        context: Flower's number of this try, and as its run configuration `run-id`, `num-clients`
            (0 takes the server's `min_clients`), `wait-seconds`, `hello-seconds` and
            `deadline-seconds`.

    Raises:
        ConfigurationError: The environment does not name the server's folder.
        RunLostError: The link is gone. There is no outcome, and the exchange is submitted again.
        Exception: The exchange failed otherwise, as its outcome in the folder says.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise ConfigurationError(
            f"Expected the environment variable {FOLDER_VARIABLE} to name the server's folder, "
            "found nothing. Start the SuperLink with `rewardds-server`."
        )
    run_folder, settings = Path(folder), context.run_config
    server = ServerFolder(path=run_folder)
    # A simulation has no network settings.
    network = server.load_network() if server.network_file.is_file() else NetworkConfig()
    # Flower sends what a ServerApp prints to its own store; the operator wants it in the folder.
    log_to_file(
        logging.getLogger(__package__),
        run_folder / LOG_FILE,
        form=network.log_format,
        level=network.log_level,
    )
    run_id, flower_run = str(settings["run-id"]), str(context.run_id)
    try:
        register = read_register(server)
        collect(
            GridChannel(grid, names=register.names if register else None),
            config=server.load_config(),
            client_keys=register.signing_keys if register else None,
            run_id=run_id,
            flower_run=flower_run,
            run_folder=run_folder,
            waiting=Waiting(
                num_clients=int(settings["num-clients"]),
                wait_seconds=float(settings["wait-seconds"]),
                hello_seconds=float(settings["hello-seconds"]),
                deadline_seconds=float(settings["deadline-seconds"]),
            ),
        )
    except RunLostError as error:
        _LOGGER.warning("This try is lost, and the exchange submitted again: %s", error)
        raise
    except Exception as error:
        _LOGGER.exception("The exchange failed.")
        if read_outcome(run_folder, flower_run=flower_run) is None:
            write_outcome(
                run_folder, run_id=run_id, error=error, outcomes=(), flower_run=flower_run
            )
        raise


@contextmanager
def _told_as_a_lost_run() -> Iterator[None]:
    """Tell a link that is gone from an exchange that failed.

    Flower waits for a link that is away, but takes whatever names TLS for a wrong certificate and
    gives up: also a handshake that was cut because the link was killed in its middle.
    """
    try:
        yield
    except httpx.TransportError as error:
        raise RunLostError(
            f"Expected the link to answer, got {type(error).__name__}. See its log in the server's "
            "folder."
        ) from error


class GridChannel:
    """Clients behind Flower's grid.

    A client whose node was away or whose process died is asked again when it is back, as long as
    the deadline allows: a request has one digest however often it is delivered, so a client that
    had answered gives the stored release, and one that was cut off pays no second time for it.

    So is a client that is busy. Flower takes a process for dead that sent no sign of life for a
    minute, as while a library loads a model, and it may be at work all the same: what it stores in
    the end is what it answers when it is asked again.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        names: Mapping[bytes, str] | None = None,
        poll_seconds: float = 3.0,
        busy_seconds: float = 30.0,
    ) -> None:
        """Wrap a grid.

        Args:
            grid: Flower's way to the nodes.
            names: Client name by node key, as registered; others are not asked. The link lets a
                node in by its signature. None takes every node under any name, for a simulation.
            poll_seconds: How often to look for answers and for nodes that are back.
            busy_seconds: How long to leave a client alone that is busy.
        """
        self._grid = grid
        self._names = names
        self._poll_seconds = poll_seconds
        self._busy_seconds = busy_seconds

    @_told_as_a_lost_run()
    def clients(self) -> Mapping[int, str | None]:
        """Return who is connected, and for which client its key speaks."""
        nodes = sorted(self._grid.get_nodes(), key=lambda node: node.node_id)
        if self._names is None:
            return dict.fromkeys(node.node_id for node in nodes)
        return {
            node.node_id: self._names[node.public_key]
            for node in nodes
            if node.public_key in self._names
        }

    @_told_as_a_lost_run()
    def ask(
        self,
        action: str,
        requests: Mapping[int, Request],
        *,
        timeout_seconds: float,
    ) -> Mapping[int, Content]:
        """Send each request to its client and collect the answers.

        Who is busy to the end has answered that.
        """
        give_up = time.monotonic() + timeout_seconds
        answers: dict[int, Content] = {}
        underway: dict[str, int] = {}
        asked_of: dict[int, str] = {}
        to_ask = set(requests)
        left_alone_until: dict[int, float] = {}
        num_crashes = dict.fromkeys(requests, 0)
        while (to_ask or underway) and (left := give_up - time.monotonic()) > 0:
            nodes = {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}
            for node_id in set(underway.values()) & nodes.keys():
                # It has started anew since; what was delivered to it before is lost without a word.
                if nodes[node_id] != asked_of[node_id]:
                    _LOGGER.info("Node %d is back and asked again: %s.", node_id, action)
                    to_ask.add(node_id)
            now = time.monotonic()
            due = {client_id for client_id in to_ask if left_alone_until.get(client_id, now) <= now}
            if present := due & nodes.keys():
                to_ask -= present
                asked_of |= {client_id: nodes[client_id] for client_id in present}
                underway |= self._send(action, requests, sorted(present), ttl_seconds=left)
            for reply in self._grid.pull_messages(list(underway)):
                client_id = underway.pop(reply.metadata.reply_to_message_id, None)
                if client_id is None:
                    continue
                if not reply.has_error():
                    answers[client_id] = reply.content
                    if _is_busy(reply.content):
                        if client_id not in left_alone_until:
                            _LOGGER.warning(
                                "Node %d, %s: it is at work on another request. It is asked again "
                                "every %g s.",
                                client_id,
                                action,
                                self._busy_seconds,
                            )
                        left_alone_until[client_id] = time.monotonic() + self._busy_seconds
                        if client_id not in underway.values():
                            to_ask.add(client_id)
                        continue
                    underway = {
                        name: other for name, other in underway.items() if other != client_id
                    }
                    to_ask.discard(client_id)
                    continue
                # Its text comes from the other side, so only the number is used.
                code = int(reply.error.code)
                num_crashes[client_id] += code in _CRASH_CODES
                is_final = code in _FINAL_CODES or num_crashes[client_id] > _MAX_CRASHES
                _LOGGER.warning(
                    "Node %d, %s: %s (Flower's code %d). %s",
                    client_id,
                    action,
                    _CODE_MEANINGS.get(code, "an error without a name"),
                    code,
                    "It is left out." if is_final else "It is asked again when it is back.",
                )
                if not is_final and client_id not in underway.values():
                    to_ask.add(client_id)
            if to_ask or underway:
                time.sleep(self._poll_seconds)
        return answers

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        """Read the answer to a hello."""
        assert not isinstance(content, bytes)
        return decode(content, HelloReply, Refusal)

    def _send(
        self,
        action: str,
        requests: Mapping[int, Request],
        client_ids: Sequence[int],
        *,
        ttl_seconds: float,
    ) -> dict[str, int]:
        messages = [
            Message(
                content=encode(requests[client_id]),
                dst_node_id=client_id,
                message_type=_MESSAGE_TYPES[action],
                ttl=ttl_seconds,
            )
            for client_id in client_ids
        ]
        sent = self._grid.push_messages(messages)
        return dict(zip(sent, client_ids, strict=False))


def _is_busy(content: RecordDict) -> bool:
    if num_bytes(content) > _MAX_REFUSAL_BYTES:
        return False
    try:
        return decode(content, Refusal).code is RefusalCode.BUSY
    except ProtocolError:
        return False


class BytesChannel:
    """Clients within this process; each message becomes bytes and is read from them."""

    def __init__(
        self, endpoints: Mapping[int, Endpoint], *, names: Mapping[int, str] | None = None
    ) -> None:
        """Name the clients.

        Args:
            endpoints: One function a client, by an identifier.
            names: For which client each may speak; None lets each choose its name.
        """
        self._endpoints = endpoints
        self._names = names

    def clients(self) -> Mapping[int, str | None]:
        """Return who is there."""
        ids = sorted(self._endpoints)
        return dict.fromkeys(ids) if self._names is None else {i: self._names[i] for i in ids}

    def ask(
        self,
        action: str,
        requests: Mapping[int, Request],
        *,
        timeout_seconds: float,
    ) -> Mapping[int, Content]:
        """Ask one client after the other; nobody can be hurried."""
        return {
            client_id: self._endpoints[client_id](action, encode_bytes(request))
            for client_id, request in requests.items()
        }

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        """Read the answer to a hello."""
        assert isinstance(content, bytes)
        return decode_bytes(content, HelloReply, Refusal)
