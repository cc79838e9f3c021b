"""The ways in which RewardDS declines to go on, as one tree; a few modules add a leaf of their own.

```
RewardDSError
├── ConfigurationError        a setting is missing, unknown, out of range or contradicts another
├── RecordsError              rows on this party's own disk cannot be used as they are
├── BudgetError
│   ├── BudgetExceededError   the request would take the lifetime cost over the operator's cap
│   └── UnaccountedReleaseError   something wants to leave without an event that pays for it
├── ProtocolError
│   ├── VersionMismatchError  the two parties run versions that do not understand each other
│   ├── MalformedMessageError bytes that are not a message of this protocol
│   └── RefusedError          the client declined; carries its refusal code
├── AdmissionError            a release arrived and may not be used
│   ├── SignatureError        the certificate was not signed by the key it names
│   ├── DigestMismatchError   weights, base model or code differ from what the certificate states
│   ├── UnexpectedTensorError a name, shape, dtype or value that the request did not ask for
│   └── LedgerMismatchError   the ledger contradicts itself, or costs more than may be accepted
├── ExchangeError             the exchange ended without enough admitted releases
└── StageError                a stage of the server's job has nothing to hand to the next one
```

A message says what was expected, what was found and what to do. On the client a message holds
settings, names and codes, never a value that came from a record.
"""

from __future__ import annotations

from enum import StrEnum


class RewardDSError(Exception):
    """Root of all errors that a user of RewardDS can act on."""


class ConfigurationError(RewardDSError):
    """A setting is missing, unknown, out of range or contradicts another; the user's to fix."""


class RecordsError(RewardDSError):
    """Rows on this party's own disk cannot be used; the message never quotes a row."""


class BudgetError(RewardDSError):
    """The privacy budget forbids what was asked."""


class BudgetExceededError(BudgetError):
    """The composed lifetime cost would exceed the operator's cap."""


class UnaccountedReleaseError(BudgetError):
    """Something was about to leave the client without a ledger event that pays for it."""


class ProtocolError(RewardDSError):
    """The other party sent something that this version does not understand."""


class VersionMismatchError(ProtocolError):
    """The two parties speak different versions of the protocol."""


class MalformedMessageError(ProtocolError):
    """Bytes arrived that are not a message of this protocol."""


class AdmissionCode(StrEnum):
    """Why a release was not admitted; one code for each check, in the order of the checks."""

    OVERSIZE = "oversize"
    """More bytes than the policy allows."""
    MALFORMED = "malformed"
    """Not a message of this protocol."""
    VERSION = "version"
    """A message of another protocol version."""
    UNKNOWN_KEY = "unknown_key"
    """The key is none that this server knows."""
    SIGNATURE = "signature"
    """The key did not sign this certificate."""
    RUN = "run"
    """Made for another run."""
    CLIENT = "client"
    """Made by another client than the one that was asked, or signed with another client's key."""
    PROXY = "proxy"
    """Another proxy than the one that was asked for."""
    REPLAY = "replay"
    """This client's or this key's release was already admitted."""
    START = "start"
    """Trained from other starting weights than those that this server sent, if it sent any."""
    BASE_MODEL = "base_model"
    """Trained on another base model."""
    CODE = "code"
    """Made by code that the policy does not list."""
    UNACCOUNTED = "unaccounted"
    """The ledger has no event for the proxy, or does not go on from the generator's."""
    NOT_PRIVATE = "not_private"
    """No finite epsilon, and the policy does not accept that."""
    REPRODUCIBLE_NOISE = "reproducible_noise"
    """Noise from a fixed seed, and the policy does not accept that."""
    DELTA = "delta"
    """Delta above the policy's, or below what an accountant can compute with."""
    EPSILON = "epsilon"
    """Epsilon above the policy's."""
    TENSOR_NAMES = "tensor_names"
    """Tensors missing, or others than expected."""
    TENSOR_SHAPES = "tensor_shapes"
    """A tensor of another shape or type than expected."""
    NOT_FINITE = "not_finite"
    """A value is infinite or not a number."""
    WEIGHTS_DIGEST = "weights_digest"
    """The weights are not the ones that were signed."""
    ARITHMETIC = "arithmetic"
    """The claimed epsilon does not follow from the listed events, or nothing does."""


class AdmissionError(RewardDSError):
    """A release arrived and may not be used; the release's fault, or its sender's."""

    def __init__(self, message: str, *, code: AdmissionCode) -> None:
        super().__init__(message)
        self.code = code
        """Which check failed."""


class SignatureError(AdmissionError):
    """The certificate was not signed by the key it names, or that key is not the expected one."""

    def __init__(self, message: str, *, code: AdmissionCode = AdmissionCode.SIGNATURE) -> None:
        super().__init__(message, code=code)


class DigestMismatchError(AdmissionError):
    """Weights, base model or code differ from what the certificate states."""

    def __init__(self, message: str, *, code: AdmissionCode = AdmissionCode.WEIGHTS_DIGEST) -> None:
        super().__init__(message, code=code)


class UnexpectedTensorError(AdmissionError):
    """A tensor has a name, shape, dtype or value that was not asked for."""

    def __init__(self, message: str, *, code: AdmissionCode = AdmissionCode.TENSOR_SHAPES) -> None:
        super().__init__(message, code=code)


class LedgerMismatchError(AdmissionError):
    """The ledger contradicts itself, or costs more than may be accepted."""

    def __init__(self, message: str, *, code: AdmissionCode = AdmissionCode.ARITHMETIC) -> None:
        super().__init__(message, code=code)


class ExchangeError(RewardDSError):
    """The exchange ended without enough admitted releases."""


class StageError(RewardDSError):
    """A stage of the server's job has nothing to hand to the next one."""


class RefusalCode(StrEnum):
    """The closed set of answers with which a client declines; nothing more is ever told."""

    BUDGET_EXCEEDED = "budget_exceeded"
    """The composed lifetime cost would exceed the operator's cap."""
    POLICY = "policy"
    """The request asks for something that the client's own settings do not allow."""
    BASE_MODEL = "base_model"
    """The request names a base model that is not the one on the client's disk."""
    VERSION = "version"
    """The request speaks another protocol version."""
    MALFORMED = "malformed"
    """The request could not be read."""
    ORDER = "order"
    """The reward proxy was asked for before the generator proxy of the same run."""
    BUSY = "busy"
    """Another request is being answered."""
    INTERNAL = "internal"
    """Something failed on the client; its own log says what."""


class RefusedError(ProtocolError):
    """The client declined. Not an error of anybody's: its operator decides."""

    def __init__(self, code: RefusalCode) -> None:
        super().__init__(
            f"Expected a release, found the refusal {code.value!r}. Ask the client's operator, "
            f"or ask for less."
        )
        self.code = code
        """The reason, as far as the client tells."""
