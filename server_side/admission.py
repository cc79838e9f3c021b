"""Admission: from bytes that anybody may have sent to a release that the stages may use.

Stage 6, the server's side of the trust boundary. Nothing that a client states is believed where it
can be checked. Checks run in this order, cheap before costly, and each has a code of its own:

1. size (`oversize`), form (`malformed`), protocol version (`version`); a refusal ends here
2. key is a known one (`unknown_key`), signature (`signature`)
3. made in this protocol version (`version`), for this run (`run`), by the client that was asked
   (`client`) and by the key that is registered for it (`client`), the proxy that was asked for
   (`proxy`), not admitted before (`replay`), from the starting weights that were sent, if any were
   (`start`)
4. base model (`base_model`), client code where the policy lists some (`code`)
5. ledger of the reward proxy goes on with the generator's, and has an event for its own proxy
   (`unaccounted`), finite claim (`not_private`), secret noise (`reproducible_noise`), delta
   (`delta`), claimed epsilon (`epsilon`)
6. tensor names (`tensor_names`), shapes (`tensor_shapes`), values (`not_finite`)
7. digest of the weights (`weights_digest`)
8. epsilon recomputed from the events (`arithmetic`)

Only `admit` can make an `AdmittedRelease`, and `load_admitted` runs all checks again on what lies
on the disk.

Covers: a hostile or broken client, a replayed or changed release, a changed file in the run folder.
Does not cover: a client that lies about what it did (its own records suffer), weights that are
harmful within the expected shapes, or memory that the transport spends before this is called.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Final, NoReturn, SupportsIndex

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from lm.disk import clear_disk_errors
from protocol import PROTOCOL_VERSION
from protocol.artifacts import Certificate, LoraShape, Release
from protocol.documents import to_document
from protocol.errors import (
    AdmissionCode,
    AdmissionError,
    MalformedMessageError,
    ProtocolError,
    RefusedError,
    VersionMismatchError,
)
from protocol.ledger import ProxyKind
from protocol.messages import Refusal, ReleaseReply
from protocol.wire import decode_bytes, encode_bytes, num_bytes, records_to_bytes
from server_side.admission_checks import (
    AdmissionPolicy,
    ExpectedShapes,
    check_claim,
    check_digests,
    check_ledgers_agree,
    check_signature,
    check_start,
    check_tensors,
    may_sign,
    recompute_epsilon,
)

__all__ = [
    "AdmissionPolicy",
    "AdmittedRelease",
    "ExpectedShapes",
    "admission_code",
    "admit",
    "load_admitted",
    "store_admitted",
    "store_refused",
]

_ONLY_ADMIT: Final = object()
_SUFFIX: Final = ".release"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedRelease:
    """A release that passed every check. Only `admit` can make one."""

    release: Release
    """What was checked."""
    epsilon: float
    """Composed epsilon as this server computed it from the events."""
    token: InitVar[object]
    """Proof that `admit` is calling."""

    def __post_init__(self, token: object) -> None:
        """Refuse everybody but `admit`."""
        if token is not _ONLY_ADMIT:
            raise TypeError("Expected admit() to make an AdmittedRelease. Call admit().")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "Expected store_admitted and load_admitted; an AdmittedRelease is not copied."
        )

    @property
    def certificate(self) -> Certificate:
        """The client's public statements."""
        return self.release.certificate

    @property
    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Array by name, read-only."""
        return self.release.weights.tensors

    @property
    def client_name(self) -> str:
        """Name of the client."""
        return self.release.certificate.client_name

    @property
    def proxy(self) -> ProxyKind:
        """Which model this is."""
        return self.release.certificate.proxy

    @property
    def lora(self) -> LoraShape:
        """How to attach the adapter."""
        return self.release.certificate.lora

    @property
    def instruction(self) -> str:
        """The client's public description of its domain."""
        return self.release.certificate.instruction


def admit(
    content: RecordDict | bytes,
    *,
    policy: AdmissionPolicy,
    expected_shapes: ExpectedShapes,
    client_name: str | None = None,
    proxy: ProxyKind | None = None,
    admitted: Sequence[AdmittedRelease] = (),
) -> AdmittedRelease:
    """Check what a client answered, in the order of the module docstring.

    Args:
        content: Content of the Flower message, or bytes as `protocol.wire.encode_bytes` writes.
        policy: What the server accepts.
        expected_shapes: Shapes of an adapter on the server's own base model.
        client_name: The client that was asked, from its hello; None where that is not known.
        proxy: The proxy that was asked for; None where either may come.
        admitted: What was admitted in this run so far.

    Returns:
        The release, with the epsilon computed here.

    Raises:
        RefusedError: The client declined.
        MalformedMessageError: The content is not a release.
        VersionMismatchError: It is one of another protocol version.
        AdmissionError: A check failed; `code` says which.
    """
    size = len(content) if isinstance(content, bytes) else num_bytes(content)
    if size > policy.max_release_bytes:
        raise AdmissionError(
            f"Expected at most max_release_bytes={policy.max_release_bytes}, found {size} bytes. "
            f"Raise the limit or ask the client for a smaller adapter.",
            code=AdmissionCode.OVERSIZE,
        )
    data = content if isinstance(content, bytes) else records_to_bytes(content)
    reply = decode_bytes(data, ReleaseReply, Refusal)
    if isinstance(reply, Refusal):
        raise RefusedError(reply.code)
    release = reply.release
    check_signature(release, policy)
    _check_binding(release, policy, client_name=client_name, proxy=proxy, admitted=admitted)
    check_start(release.certificate, policy)
    check_digests(release.certificate, policy)
    earlier = [
        item.certificate for item in admitted if item.client_name == release.certificate.client_name
    ]
    check_ledgers_agree(release.certificate, earlier)
    check_claim(release.certificate, policy)
    check_tensors(release, expected_shapes)
    epsilon = recompute_epsilon(release.certificate)
    return AdmittedRelease(release=release, epsilon=epsilon, token=_ONLY_ADMIT)


def admission_code(error: ProtocolError | AdmissionError) -> AdmissionCode:
    """Name the check that failed, for the run folder and the report."""
    match error:
        case AdmissionError():
            return error.code
        case VersionMismatchError():
            return AdmissionCode.VERSION
    return AdmissionCode.MALFORMED


def store_admitted(admitted: AdmittedRelease, folder: Path) -> Path:
    """Write an admitted release, whole or not at all, with its certificate as readable JSON beside.

    Args:
        admitted: What to keep.
        folder: Folder for releases; created if missing.

    Returns:
        The file that `load_admitted` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{admitted.client_name}.{admitted.proxy.value}"
    readable = json.dumps(to_document(admitted.certificate), indent=2, sort_keys=True) + "\n"
    _write_whole(folder / f"{name}.certificate.json", readable.encode())
    path = folder / f"{name}{_SUFFIX}"
    _write_whole(path, encode_bytes(ReleaseReply(release=admitted.release)))
    return path


def load_admitted(
    folder: Path, *, policy: AdmissionPolicy, expected_shapes: ExpectedShapes
) -> tuple[AdmittedRelease, ...]:
    """Read all stored releases and check each of them again.

    Args:
        folder: Where `store_admitted` wrote.
        policy: What the server accepts.
        expected_shapes: Shapes of an adapter on the server's own base model.

    Returns:
        Releases by client name, the generator before the reward proxy; empty for a missing folder.

    Raises:
        MalformedMessageError: A file is not a release.
        VersionMismatchError: A file is of another protocol version.
        AdmissionError: A check failed; `code` says which.
    """
    admitted: list[AdmittedRelease] = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        # The limit holds for files as well, so look before reading.
        if path.stat().st_size > policy.max_release_bytes:
            raise AdmissionError(
                f"Expected at most max_release_bytes={policy.max_release_bytes} in {path.name}, "
                f"found {path.stat().st_size}. Remove the file and collect again.",
                code=AdmissionCode.OVERSIZE,
            )
        item = admit(
            path.read_bytes(), policy=policy, expected_shapes=expected_shapes, admitted=admitted
        )
        admitted.append(item)
    return tuple(sorted(admitted, key=lambda item: (item.client_name, item.proxy.value)))


def store_refused(
    content: RecordDict | bytes, error: ProtocolError | AdmissionError, folder: Path
) -> Path:
    """Keep what was not admitted, with the reason, for people to look at. Nothing reads it again.

    Args:
        content: What arrived.
        error: Why it may not be used.
        folder: The run's releases folder; a folder `refused` is made in it.

    Returns:
        The JSON file with the reason.
    """
    refused = folder / "refused"
    refused.mkdir(parents=True, exist_ok=True)
    code = admission_code(error)
    number = len(list(refused.glob("*.json"))) + 1
    name = f"{number:03d}-{code.value}"
    note = {
        "code": code.value,
        "message": str(error),
        "num_bytes": len(content) if isinstance(content, bytes) else num_bytes(content),
        "seconds": int(time.time()),
    }
    # What was too large to read is too large to keep, and what has no form cannot be written.
    if code is not AdmissionCode.OVERSIZE:
        try:
            data = content if isinstance(content, bytes) else records_to_bytes(content)
        except MalformedMessageError:
            data = b""
        _write_whole(refused / f"{name}.bytes", data)
    path = refused / f"{name}.json"
    _write_whole(path, (json.dumps(note, indent=2, sort_keys=True) + "\n").encode())
    return path


def _check_binding(
    release: Release,
    policy: AdmissionPolicy,
    *,
    client_name: str | None,
    proxy: ProxyKind | None,
    admitted: Sequence[AdmittedRelease],
) -> None:
    certificate = release.certificate
    if certificate.protocol_version != PROTOCOL_VERSION:
        raise AdmissionError(
            f"Expected a release made in protocol version {PROTOCOL_VERSION}, found "
            f"{certificate.protocol_version}. Run the same version of RewardDS on both sides.",
            code=AdmissionCode.VERSION,
        )
    if certificate.run_id != policy.run_id:
        raise _rejected(AdmissionCode.RUN, expected=policy.run_id, found=certificate.run_id)
    if client_name is not None and certificate.client_name != client_name:
        raise _rejected(AdmissionCode.CLIENT, expected=client_name, found=certificate.client_name)
    key = release.public_key.hex()
    if not may_sign(policy, client_name=certificate.client_name, public_key=key):
        raise AdmissionError(
            f"Expected the key that is registered for client {certificate.client_name}, found "
            f"{key}, which is another client's. Ask both clients' operators.",
            code=AdmissionCode.CLIENT,
        )
    if proxy is not None and certificate.proxy is not proxy:
        raise _rejected(AdmissionCode.PROXY, expected=proxy, found=certificate.proxy)
    for other in admitted:
        is_same_name = other.client_name == certificate.client_name
        is_same_key = other.release.public_key == release.public_key
        if is_same_name and not is_same_key:
            raise AdmissionError(
                f"Expected the release of client {certificate.client_name} to be signed with the "
                f"key of its {other.proxy.value} release, which is admitted, found another key. "
                "Have its operator bring the old signing_key back, or begin a new run folder.",
                code=AdmissionCode.CLIENT,
            )
        if is_same_key and not is_same_name:
            raise AdmissionError(
                f"Expected one key for each client, found client {certificate.client_name} and "
                f"client {other.client_name} at odds about theirs. Give each client its own.",
                code=AdmissionCode.CLIENT,
            )
        if is_same_name and other.proxy is certificate.proxy:
            raise AdmissionError(
                f"Expected one {certificate.proxy.value} release of client "
                f"{certificate.client_name}, found a second. Use the first.",
                code=AdmissionCode.REPLAY,
            )


def _rejected(code: AdmissionCode, *, expected: str, found: str) -> AdmissionError:
    return AdmissionError(
        f"Expected a release with {code.value} {expected}, found {found}. "
        f"Ask the client to answer this request.",
        code=code,
    )


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a killed process leaves it complete or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with clear_disk_errors(path):
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
