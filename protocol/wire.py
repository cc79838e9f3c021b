"""The only mapping between protocol values and bytes: Flower records, and plain bytes for storage.

A message is one JSON document; a release and a request with a start have weights beside it:
- `ConfigRecord` "document" with one bytes value "json": canonical JSON of kind, version and body;
- `ArrayRecord` "weights" with one uint8 array "safetensors", so that Flower sends it in pieces.

Reading is strict and total: whatever arrives is either exactly one message of an expected kind or a
`MalformedMessageError`; a message of another protocol version is a `VersionMismatchError`. Nothing
is unpickled, and no name from the wire is ever imported or looked up.
"""

from __future__ import annotations

from typing import Final, TypeVar, overload

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from protocol import PROTOCOL_VERSION
from protocol.artifacts import AdapterWeights, Certificate, Release
from protocol.documents import Json, dump_canonical, from_document, parse_canonical, to_document
from protocol.errors import (
    DigestMismatchError,
    MalformedMessageError,
    RewardDSError,
    VersionMismatchError,
)
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Message,
    Refusal,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)

_KINDS: Final[dict[type, str]] = {
    HelloRequest: "hello_request",
    HelloReply: "hello_reply",
    TrainingRequest: "training_request",
    WarmTrainingRequest: "warm_training_request",
    ReleaseReply: "release_reply",
    Refusal: "refusal",
}

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Longest document; a full ledger takes about a fifth of it."""

_MAGIC: Final = b"RewardDS\x01\n"
"""First bytes of a stored message."""

_DOCUMENT: Final = "document"
_DOCUMENT_KEY: Final = "json"
_WEIGHTS: Final = "weights"
_WEIGHTS_KEY: Final = "safetensors"
_WEIGHTS_DTYPE: Final = "uint8"
# Flower's own `Array.numpy()` is not used: the bytes are safetensors, read by our strict reader.
_WEIGHTS_STYPE: Final = "safetensors"

M = TypeVar("M", bound=Message)
N = TypeVar("N", bound=Message)


def encode(message: Message) -> RecordDict:
    """Turn a message into the content of a Flower message.

    Args:
        message: Any protocol message.

    Returns:
        Records that `decode` turns back into an equal message.
    """
    document, weights = _split(message)
    records = RecordDict({_DOCUMENT: ConfigRecord({_DOCUMENT_KEY: document})})
    if weights is not None:
        array = Array(
            dtype=_WEIGHTS_DTYPE, shape=(len(weights),), stype=_WEIGHTS_STYPE, data=weights
        )
        records[_WEIGHTS] = ArrayRecord({_WEIGHTS_KEY: array})
    return records


@overload
def decode(records: RecordDict, expected: type[M]) -> M: ...
@overload
def decode(records: RecordDict, expected: type[M], alternative: type[N]) -> M | N: ...
def decode(records: RecordDict, expected: type[M], alternative: type[N] | None = None) -> Message:
    """Read the content of a Flower message.

    Args:
        records: What arrived.
        expected: The kind of message that may arrive here.
        alternative: A second kind that may arrive instead, such as `Refusal`.

    Returns:
        The message.

    Raises:
        MalformedMessageError: This is not exactly one message of these kinds.
        VersionMismatchError: It is a message of another protocol version.
    """
    document, weights = _take_apart(records)
    return _join(document, weights, kinds=_kinds(expected, alternative))


def encode_bytes(message: Message) -> bytes:
    """Turn a message into one byte string, for storage and for a run within one process.

    Args:
        message: Any protocol message.

    Returns:
        Bytes that `decode_bytes` turns back into an equal message; equal for equal messages.
    """
    return _framed(*_split(message))


def records_to_bytes(records: RecordDict) -> bytes:
    """Put the content of a Flower message into the form of `encode_bytes`, without reading it.

    Args:
        records: What arrived.

    Returns:
        Bytes for `decode_bytes`, which does the checking.

    Raises:
        MalformedMessageError: These are not the records of a message.
    """
    return _framed(*_take_apart(records))


@overload
def decode_bytes(data: bytes, expected: type[M]) -> M: ...
@overload
def decode_bytes(data: bytes, expected: type[M], alternative: type[N]) -> M | N: ...
def decode_bytes(data: bytes, expected: type[M], alternative: type[N] | None = None) -> Message:
    """Read a message that `encode_bytes` wrote.

    Args:
        data: What was stored or arrived.
        expected: The kind of message that may stand there.
        alternative: A second kind that may stand there instead.

    Returns:
        The message.

    Raises:
        MalformedMessageError: This is not exactly one message of these kinds.
        VersionMismatchError: It is a message of another protocol version.
    """
    start = len(_MAGIC) + 8
    num_document_bytes = int.from_bytes(data[len(_MAGIC) : start], "big")
    if not data.startswith(_MAGIC) or len(data) < start + num_document_bytes:
        raise _malformed("a stored RewardDS message")
    document = data[start : start + num_document_bytes]
    weights = data[start + num_document_bytes :] or None
    return _join(document, weights, kinds=_kinds(expected, alternative))


def num_bytes(records: RecordDict) -> int:
    """Count the payload bytes of a Flower message, before anything in it is read.

    Args:
        records: What arrived, from anybody.

    Returns:
        Bytes of arrays, texts and byte values; 8 for each number.
    """
    total = 0
    for record in records.values():
        for key, value in record.items():
            total += len(key)
            if isinstance(value, Array):
                total += len(value.data)
            else:
                for item in value if isinstance(value, list) else [value]:
                    total += len(item) if isinstance(item, (bytes, str)) else 8
    return total


def _framed(document: bytes, weights: bytes | None) -> bytes:
    return _MAGIC + len(document).to_bytes(8, "big") + document + (weights or b"")


def _split(message: Message) -> tuple[bytes, bytes | None]:
    """Give the document and the weights of a message, where it has some."""
    weights: bytes | None = None
    body: Json
    if isinstance(message, ReleaseReply):
        release = message.release
        weights = release.weights.to_bytes()
        body = {
            "certificate": to_document(release.certificate),
            "public_key": release.public_key.hex(),
            "signature": release.signature.hex(),
        }
    elif isinstance(message, WarmTrainingRequest):
        weights = message.start.to_bytes()
        body = to_document(message.request)
    else:
        body = to_document(message)
    kind = _KINDS[type(message)]
    return dump_canonical({"body": body, "kind": kind, "version": PROTOCOL_VERSION}), weights


def _take_apart(records: RecordDict) -> tuple[bytes, bytes | None]:
    """Find the two byte strings in Flower records, and nothing else beside them."""
    names = set(records.keys())
    if names not in ({_DOCUMENT}, {_DOCUMENT, _WEIGHTS}):
        raise _malformed("the records 'document' and, where weights belong to it, 'weights'")
    config = records[_DOCUMENT]
    if not isinstance(config, ConfigRecord) or set(config) != {_DOCUMENT_KEY}:
        raise _malformed("a ConfigRecord with the one key 'json'")
    document = config[_DOCUMENT_KEY]
    if not isinstance(document, bytes):
        raise _malformed("a document as bytes")
    if _WEIGHTS not in names:
        return document, None
    arrays = records[_WEIGHTS]
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {_WEIGHTS_KEY}:
        raise _malformed("an ArrayRecord with the one key 'safetensors'")
    array = arrays[_WEIGHTS_KEY]
    form = (array.dtype, tuple(array.shape), array.stype)
    if form != (_WEIGHTS_DTYPE, (len(array.data),), _WEIGHTS_STYPE):
        raise _malformed("one flat uint8 array of safetensors bytes")
    return document, array.data


def _kinds(*classes: type | None) -> dict[str, type]:
    return {_KINDS[cls]: cls for cls in classes if cls is not None}


def _join(data: bytes, weights: bytes | None, *, kinds: dict[str, type]) -> Message:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _malformed(f"a document of at most {MAX_DOCUMENT_BYTES} bytes")
    envelope = parse_canonical(data)
    if not isinstance(envelope, dict) or set(envelope) != {"body", "kind", "version"}:
        raise _malformed("a document with body, kind and version")
    kind, version, body = envelope["kind"], envelope["version"], envelope["body"]
    if type(version) is not int:
        raise _malformed("a protocol version")
    # A newer version may have other fields, so this comes before anything in the body.
    if version != PROTOCOL_VERSION:
        raise VersionMismatchError(
            f"Expected protocol version {PROTOCOL_VERSION}, found {ascii(version)[:20]}. "
            f"Run the same version of RewardDS on both sides."
        )
    if not isinstance(kind, str) or kind not in kinds:
        raise _malformed(f"a message of kind {' or '.join(kinds)}")
    cls = kinds[kind]
    if (weights is not None) != (cls in (ReleaseReply, WarmTrainingRequest)):
        raise _malformed("weights with a release or a start and with nothing else")
    if weights is not None and cls is WarmTrainingRequest:
        return _read_warm_request(body, weights)
    if weights is not None:
        return ReleaseReply(release=_read_release(body, weights))
    message: Message = from_document(cls, body, path=kind)
    return message


def _read_release(body: Json, weights: bytes) -> Release:
    if not isinstance(body, dict) or set(body) != {"certificate", "public_key", "signature"}:
        raise _malformed("a certificate, a public key and a signature")
    certificate = from_document(Certificate, body["certificate"], path="certificate")
    try:
        signature, public_key = (bytes.fromhex(body[name]) for name in ("signature", "public_key"))
        # `fromhex` skips spaces and takes capitals; only one spelling may pass.
        if [signature.hex(), public_key.hex()] != [body["signature"], body["public_key"]]:
            raise ValueError
    except (ValueError, TypeError):
        raise _malformed("a signature and a public key as hexadecimal text") from None
    loaded = AdapterWeights.from_bytes(weights)
    try:
        return Release(
            certificate=certificate, signature=signature, public_key=public_key, weights=loaded
        )
    except RewardDSError as error:
        raise MalformedMessageError(str(error)) from None


def _read_warm_request(body: Json, weights: bytes) -> WarmTrainingRequest:
    request = from_document(TrainingRequest, body, path="warm_training_request")
    try:
        return WarmTrainingRequest(request=request, start=AdapterWeights.from_bytes(weights))
    except DigestMismatchError as error:
        raise MalformedMessageError(str(error)) from None


def _malformed(expected: str) -> MalformedMessageError:
    return MalformedMessageError(
        f"Expected {expected}, found something else. Ask the sender for its version."
    )
