"""The server's Flower app: carries the exchange, stores what was admitted, and ends.

A ServerApp that is silent for a minute is failed by Flower, and a failed run cannot go on; so the
long work is a job of its own (`rewardds-server finetune`) over what is stored here.

Besides the app there is `BytesChannel`, the same exchange without Flower, for a run within one
process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from lm.settings import load_settings
from protocol.errors import ConfigurationError
from protocol.messages import HelloReply, HelloRequest, Refusal, TrainingRequest
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from server_side.collecting import (
    Content,
    Waiting,
    collect,
)
from server_side.config import ServerConfig
from server_side.outcome import read_outcome, write_outcome

_LOGGER = logging.getLogger(__name__)

FOLDER_VARIABLE: Final = "REWARDDS_SERVER_FOLDER"
"""Environment variable with the server's run folder, where `server_node.yaml` lies."""

SETTINGS_FILE: Final = "server_node.yaml"
"""Name of the settings file in the server's run folder."""

LOG_FILE: Final = "exchange.log"
"""What the exchange logs, in the server's run folder."""

_MESSAGE_TYPES: Final = {
    "hello": "query.hello",
    "generator": "train.generator",
    "reward": "train.reward",
}

Endpoint = Callable[[str, bytes], bytes]
"""A client within this process: action and request in, reply out."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the exchange as the server's own folder says."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise ConfigurationError(
            f"Expected the environment variable {FOLDER_VARIABLE} to name the server's folder, "
            "found nothing. Start the SuperLink with `rewardds-server`."
        )
    run_folder, settings = Path(folder), context.run_config
    # Flower sends what a ServerApp prints to its own store; the operator wants it in the folder.
    log = logging.FileHandler(run_folder / LOG_FILE, encoding="utf-8")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.getLogger(__package__)
    own.setLevel(logging.INFO)
    own.addHandler(log)
    run_id = str(settings["run-id"])
    try:
        collect(
            GridChannel(grid, ttl_seconds=float(settings["deadline-seconds"])),
            config=load_settings(ServerConfig, run_folder / SETTINGS_FILE),
            run_id=run_id,
            run_folder=run_folder,
            waiting=Waiting(
                num_clients=int(settings["num-clients"]),
                wait_seconds=float(settings["wait-seconds"]),
                deadline_seconds=float(settings["deadline-seconds"]),
            ),
        )
    except Exception as error:
        _LOGGER.exception("The exchange failed.")
        if read_outcome(run_folder) is None:
            write_outcome(run_folder, run_id=run_id, error=error, outcomes=())
        raise


class GridChannel:
    """Clients behind Flower's grid."""

    def __init__(self, grid: Grid, *, ttl_seconds: float) -> None:
        """Wrap a grid.

        Args:
            grid: Flower's way to the nodes.
            ttl_seconds: How long an unanswered message stays valid.
        """
        self._grid = grid
        self._ttl_seconds = ttl_seconds

    def client_ids(self) -> Sequence[int]:
        """Return who is connected."""
        return sorted(self._grid.get_node_ids())

    def ask(
        self,
        action: str,
        requests: Mapping[int, HelloRequest | TrainingRequest],
        *,
        timeout_seconds: float,
    ) -> Mapping[int, Content]:
        """Send each request to its client and collect the answers."""
        messages = [
            Message(
                content=encode(request),
                dst_node_id=client_id,
                message_type=_MESSAGE_TYPES[action],
                ttl=self._ttl_seconds,
            )
            for client_id, request in requests.items()
        ]
        answers: dict[int, Content] = {}
        for reply in self._grid.send_and_receive(messages, timeout=timeout_seconds):
            client_id = reply.metadata.src_node_id
            if reply.has_error():
                # Its text comes from the other side, so only the number is logged.
                _LOGGER.warning("Node %d: transport error %d.", client_id, reply.error.code)
            elif client_id in requests and client_id not in answers:
                answers[client_id] = reply.content
        return answers

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        """Read the answer to a hello."""
        assert not isinstance(content, bytes)
        return decode(content, HelloReply, Refusal)


class BytesChannel:
    """Clients within this process; each message becomes bytes and is read from them."""

    def __init__(self, endpoints: Mapping[int, Endpoint]) -> None:
        """Name the clients.

        Args:
            endpoints: One function a client, by an identifier.
        """
        self._endpoints = endpoints

    def client_ids(self) -> Sequence[int]:
        """Return who is there."""
        return sorted(self._endpoints)

    def ask(
        self,
        action: str,
        requests: Mapping[int, HelloRequest | TrainingRequest],
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
