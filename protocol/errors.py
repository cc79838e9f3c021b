"""Every way in which RewardDS declines to go on, as one tree.

```
RewardDSError
├── ConfigurationError        a setting is missing, unknown, out of range or contradicts another
├── RecordsError              the private or public rows cannot be used as they are (client or server disk)
├── BudgetError
│   ├── BudgetExceededError   the request would take the lifetime cost over the operator's cap
│   └── UnaccountedReleaseError   something wants to leave without an event that pays for it
├── ProtocolError
│   ├── VersionMismatchError  the two parties run versions that do not understand each other
│   └── MalformedMessageError bytes that are not a message of this protocol
├── AdmissionError            a release arrived and may not be used
│   ├── SignatureError        the certificate was not signed by the key it names
│   ├── DigestMismatchError   weights, base model or code differ from what the certificate states
│   ├── UnexpectedTensorError a name, shape, dtype or value that the request did not ask for
│   └── LedgerMismatchError   the claimed ε does not follow from the listed events
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


class AdmissionError(RewardDSError):
    """A release arrived and may not be used; the release's fault, or its sender's."""


class SignatureError(AdmissionError):
    """The certificate was not signed by the key it names, or that key is not the expected one."""


class DigestMismatchError(AdmissionError):
    """Weights, base model or code differ from what the certificate states."""


class UnexpectedTensorError(AdmissionError):
    """A tensor has a name, shape, dtype or value that was not asked for."""


class LedgerMismatchError(AdmissionError):
    """The claimed privacy cost does not follow from the listed events."""


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
