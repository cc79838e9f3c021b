"""The client's Flower app: thin handlers that turn messages into answers and contain every error.

Stages 1 to 5 happen behind `client_side/answering.py`; here is only the wire. Each handler answers
with a message of the protocol, a refusal included; no exception and no text of one gets out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client_side.answering import answer_hello, answer_training, check_request_size, guarded
from client_side.folder import FOLDER_KEY, SERVER_KEY, SIMULATED_VARIABLE, ClientFolder
from client_side.proxy_training import ReleaseCodec
from protocol.ledger import ProxyKind
from protocol.messages import (
    HelloReply,
    HelloRequest,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)
from protocol.wire import decode, decode_bytes, encode, encode_bytes, num_bytes

FOLDERS_VARIABLE: Final = "REWARDDS_CLIENT_FOLDERS"
"""Environment variable with the folder of all clients' folders, for Flower's simulation engine,
whose nodes know their number and nothing else."""

_IN_PROCESS: Final = "in-process simulation"
_ENGINE: Final = "Flower's simulation engine"

_CODEC: Final = ReleaseCodec(
    encode=encode_bytes, decode=lambda data: decode_bytes(data, ReleaseReply)
)


app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Introduce this client."""
    return _answer(message, context, answer_hello, HelloRequest)


@app.train("generator")
def generator(message: Message, context: Context) -> Message:
    """Train the generator proxy and release it."""
    train = _training(ProxyKind.GENERATOR, context)
    return _answer(message, context, train, TrainingRequest, WarmTrainingRequest)


@app.train("reward")
def reward(message: Message, context: Context) -> Message:
    """Train the reward proxy and release it."""
    train = _training(ProxyKind.REWARD, context)
    return _answer(message, context, train, TrainingRequest, WarmTrainingRequest)


def answer_bytes(action: str, data: bytes, *, folder: Path) -> bytes:
    """Answer without Flower: bytes in, bytes out, for a run within one process.

    Args:
        action: `hello`, `generator` or `reward`.
        data: A request as `protocol.wire.encode_bytes` writes it.
        folder: The client's folder.

    Returns:
        The reply, in the same form.
    """
    own = ClientFolder(path=folder)

    def answer() -> HelloReply | ReleaseReply:
        check_request_size(len(data), folder=own)
        if action == "hello":
            return answer_hello(decode_bytes(data, HelloRequest), folder=own, is_deployed=False)
        request = decode_bytes(data, TrainingRequest, WarmTrainingRequest)
        return answer_training(
            request,
            proxy=ProxyKind(action),
            folder=own,
            codec=_CODEC,
            requested_by=_IN_PROCESS,
            is_deployed=False,
        )

    return encode_bytes(guarded(own, answer))


def _training(proxy: ProxyKind, context: Context) -> Callable[..., ReleaseReply]:
    """Train for the server that this node's operator connected it to; the message has no say."""
    default = _ENGINE if FOLDERS_VARIABLE in os.environ else ""
    requested_by = str(context.node_config.get(SERVER_KEY, default))
    return partial(answer_training, proxy=proxy, codec=_CODEC, requested_by=requested_by)


def _answer(
    message: Message,
    context: Context,
    answer: Callable[..., HelloReply | ReleaseReply],
    kind: type[Any],
    alternative: type[Any] | None = None,
) -> Message:
    folder = _folder(context)

    def read_and_answer() -> HelloReply | ReleaseReply:
        content = message.content if message.has_content() else RecordDict()
        # Before anything in it is read.
        check_request_size(num_bytes(content), folder=folder)
        request = decode(content, kind, alternative) if alternative else decode(content, kind)
        # Privacy: noise that can be repeated, or none, is for a node that a simulation started;
        # every other counts as a real one.
        return answer(request, folder=folder, is_deployed=SIMULATED_VARIABLE not in os.environ)

    # Privacy: the text of an error that got past this would go to the server.
    return Message(encode(guarded(folder, read_and_answer)), reply_to=message)


def _folder(context: Context) -> ClientFolder:
    """Find the client's folder in what this node's operator configured, never in the message."""
    # Privacy: which records, ledger and settings answer is the operator's choice; a run's own
    # configuration, which the server writes, is not looked at.
    own = context.node_config
    if FOLDER_KEY not in own and "partition-id" in own and FOLDERS_VARIABLE in os.environ:
        number = int(own["partition-id"]) + 1
        return ClientFolder(path=Path(os.environ[FOLDERS_VARIABLE]) / f"client-{number}")
    return ClientFolder(path=Path(str(own.get(FOLDER_KEY))))
