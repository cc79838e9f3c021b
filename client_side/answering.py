"""How a client answers: check the request against its own policy, pay, train, release.

A message in, a message out; nothing here knows how messages travel. What the server sends is a
request, and every setting comes from the client's own folder.

Order of a training: answer from the store if this was answered before; check the request; read the
records; reserve the cost on disk, or find a training that was cut off and is paid for; train; let
egress check and sign; store; answer.

Covers: that nothing but a `ReleaseReply`, a `HelloReply` or a bare `Refusal` comes out, whatever
happens inside, and that no log line quotes what a third-party error says.
Does not cover: how long an answer takes, which the server can see; what a library writes to
standard error by itself, which goes to this client's own log.
"""

from __future__ import annotations

import fcntl
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from client_side.budget import BudgetLedger
from client_side.config import ClientConfig
from client_side.egress import load_signing_key
from client_side.folder import ClientFolder
from client_side.proxy_training import ProxyTraining, ReleaseCodec
from client_side.request_checks import (
    RequestRefusedError,
    lora_shape,
    refuse_unsafe,
    refuse_unsafe_past,
    resolve_base,
)
from lm.errors import LmError
from lm.threads import torch_threads
from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.errors import (
    BudgetExceededError,
    MalformedMessageError,
    RefusalCode,
    RewardDSError,
    VersionMismatchError,
)
from protocol.ledger import PrivacyUnit, ProxyKind
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Refusal,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)

_LOGGER = logging.getLogger(__name__)


def guarded(
    folder: ClientFolder, answer: Callable[[], HelloReply | ReleaseReply]
) -> HelloReply | ReleaseReply | Refusal:
    """Answer, or refuse with a bare code; no exception comes out but what ends the process.

    Args:
        folder: The client's folder, where the operator finds the reason.
        answer: Does the work.

    Returns:
        The reply.

    Privacy:
        Flower sends the text of an uncaught exception to the server, and errors of tokenizers and
        JSON readers quote their input. So all are caught here; the code tells one of eight things.
    """
    try:
        return answer()
    # What ends this process on purpose; it carries no record text.
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # Privacy: everything else. What a library in Rust raises when it panics is no `Exception`.
    except BaseException as error:
        code = _code_of(error)
        _report(folder, error, code)
    # Outside of the handler, so that no traceback hangs on to what happened.
    return Refusal(code=code)


def answer_hello(request: HelloRequest, *, folder: ClientFolder, is_deployed: bool) -> HelloReply:
    """Introduce this client.

    Args:
        request: The server's greeting.
        folder: The client's folder.
        is_deployed: Whether a node that no simulation started asks.

    Returns:
        Public settings.

    Raises:
        RequestRefusedError: The server speaks another version.
        RewardDSError: The folder cannot be used, or not by a real node.

    Privacy:
        Reads no record. Everything in the reply is a setting or a digest of public bytes.
    """
    _check_version(request.protocol_version)
    config = _load_config(folder, is_deployed=is_deployed)
    takes_start = config.warm_start.accept
    return HelloReply(
        protocol_version=PROTOCOL_VERSION,
        software_version=SOFTWARE_VERSION,
        client_name=config.name,
        public_key=load_signing_key(folder.path).public_key().public_bytes_raw().hex(),
        base_model_digest=resolve_base(config)[1],
        declared_size=config.records.declared_size,
        privacy_unit=PrivacyUnit(config.records.privacy_unit.value),
        epsilon_cap=config.budget.lifetime_epsilon_cap,
        generator_start=lora_shape(config.generator) if takes_start else None,
        reward_start=lora_shape(config.reward_proxy) if takes_start else None,
    )


def check_request_size(num_bytes: int, *, folder: ClientFolder) -> None:
    """Refuse what is too large, before any of it is read.

    Args:
        num_bytes: Size of the request.
        folder: The client's folder.

    Raises:
        RequestRefusedError: The request is larger than the operator allows.
    """
    limit = folder.load_config().warm_start.max_bytes
    if num_bytes > limit:
        raise RequestRefusedError(
            RefusalCode.MALFORMED,
            f"Expected a request of at most warm_start.max_bytes={limit}, found {num_bytes} bytes. "
            "Nothing was read. Raise the limit if starting weights are to be taken.",
        )


def answer_training(
    request: TrainingRequest | WarmTrainingRequest,
    *,
    proxy: ProxyKind,
    folder: ClientFolder,
    codec: ReleaseCodec,
    is_deployed: bool,
    requested_by: str = "",
) -> ReleaseReply:
    """Train one proxy and release it, or release again what this request was answered with.

    Args:
        request: What the server asks for, with or without weights to start from.
        proxy: Which proxy the action is for.
        folder: The client's folder.
        codec: How a release becomes bytes for the store.
        is_deployed: Whether a node that no simulation started asks.
        requested_by: Who asks, as this node's operator named the server; for the ledger.

    Returns:
        The release.

    Raises:
        RequestRefusedError: The client's policy does not allow it.
        RewardDSError: Records, budget or settings do not allow it.

    Privacy:
        Output leaves the client; egress built it. The generator's request pays for both proxies.
    """
    start = None
    if isinstance(request, WarmTrainingRequest):
        start, request = request.start, request.request
    _check_version(request.protocol_version)
    config = _load_config(folder, is_deployed=is_deployed)
    with _one_at_a_time(folder), torch_threads(config.num_threads):
        training = ProxyTraining(
            request=request,
            proxy=proxy,
            folder=folder,
            config=config,
            requested_by=requested_by,
            start=start,
        )
        ledger = BudgetLedger(folder.ledger_folder)
        if is_deployed:
            refuse_unsafe_past(ledger.reservations())
        stored = ledger.find_release(request.digest())
        if stored is None:
            reply = training.run(ledger, codec)
        else:
            _LOGGER.info("Answering again with the stored %s release.", proxy.value)
            reply = codec.decode(stored)
        # Only now: a release that is in the store needs no state, also if we are killed right here.
        training.discard_state()
        training.tell("released", epsilon=reply.release.certificate.privacy.epsilon)
        return reply


def _load_config(folder: ClientFolder, *, is_deployed: bool) -> ClientConfig:
    config = folder.load_config()
    if is_deployed:
        # Privacy: whoever edits the settings of a node that runs has them read by its next request,
        # so each request looks at the very settings that it will train by.
        refuse_unsafe(config)
    return config


def _check_version(version: int) -> None:
    if version != PROTOCOL_VERSION:
        raise RequestRefusedError(
            RefusalCode.VERSION,
            f"Expected protocol version {PROTOCOL_VERSION}, found {version}. Run the same version.",
        )


@contextmanager
def _one_at_a_time(folder: ClientFolder) -> Iterator[None]:
    folder.path.mkdir(exist_ok=True)
    with (folder.path / ".busy").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestRefusedError(
                RefusalCode.BUSY, "Expected to answer one request at a time, found another."
            ) from None
        yield


def _code_of(error: BaseException) -> RefusalCode:
    match error:
        case RequestRefusedError():
            return error.code
        case BudgetExceededError():
            return RefusalCode.BUDGET_EXCEEDED
        case VersionMismatchError():
            return RefusalCode.VERSION
        case MalformedMessageError():
            return RefusalCode.MALFORMED
    return RefusalCode.INTERNAL


def _report(folder: ClientFolder, error: BaseException, code: RefusalCode) -> None:
    """Tell the operator, and nobody else, what was refused and where."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    # Privacy: only our own errors promise never to quote a record, nor what a library says while it
    # works on one; of others, type and place.
    is_ours = isinstance(error, (RewardDSError, LmError))
    reason = f"{type(error).__name__} at {place}" + (f": {error}" if is_ours else "")
    _LOGGER.error("Refused with code %s: %s", code.value, reason)
    if code is RefusalCode.BUSY:
        return  # the status tells of the request that is being answered
    try:
        folder.write_status({"phase": "refused", "code": code.value, "reason": reason})
    # Privacy: also a failure to report a failure must not get out.
    except Exception as problem:
        _LOGGER.error("The status file could not be written: %s.", type(problem).__name__)
