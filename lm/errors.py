"""Errors of the language-model plumbing; it knows no party, so it has a small tree of its own.

```
LmError
├── ModelFolderError   a base model cannot be found, or its folder lacks what is needed
├── SettingsError      a settings file has an unknown key or a wrong value
├── DiskError          the disk is full, broken, read-only, or closed to this user
├── TableError         a file of prompts and responses cannot be read; never quotes a value
├── SamplingError      an engine cannot be had, or failed
│   └── VllmRefusalError    a vLLM server says no
└── ScoringError       a reward or a likelihood came out as something that is not a number
```
"""

from __future__ import annotations


class LmError(Exception):
    """Root of what `lm` raises for a user to act on."""


class ModelFolderError(LmError):
    """A base model cannot be found, or its folder lacks what is needed."""


class DiskError(LmError):
    """The disk is full, broken or read-only, or permissions are missing."""


class TableError(LmError):
    """A file of prompts and responses cannot be read; the message never quotes a value."""


class SamplingError(LmError):
    """A sampling engine is not available or failed."""


class VllmRefusalError(SamplingError):
    """The server answered, and said no; asking again would not help."""

    def __init__(self, status: int, reason: str, request: str) -> None:
        """Keep the HTTP status, by which a caller may know what to do."""
        super().__init__(
            f"Expected the vLLM server to accept {request}, got status {status}: {reason}. "
            "Compare the server's options with what is asked."
        )
        self.status = status


class ScoringError(LmError):
    """A reward or a likelihood is not a finite number."""
