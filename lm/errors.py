"""Errors of the language-model plumbing; it knows no party, so it has a small tree of its own.

```
LmError
├── ModelFolderError   a base model cannot be found, or its folder lacks what is needed
├── SettingsError      a settings file has an unknown key or a wrong value
├── TableError         a file of prompts and responses cannot be read; never quotes a value
├── SamplingError      an engine cannot be had, or failed
└── ScoringError       a reward or a likelihood came out as something that is not a number
```
"""

from __future__ import annotations


class LmError(Exception):
    """Root of what `lm` raises for a user to act on."""


def in_words(error: Exception) -> str:
    """Say what went wrong for a user to act on, where the error may be the system's own.

    Args:
        error: An error of the project, whose text says it all, or of the system.

    Returns:
        The text; for a file or folder that cannot be used, which one, why and what to do.
    """
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    return (
        f"Expected to be able to use {error.filename2 or error.filename}, found: "
        f"{error.strerror}. Name another place, or mend this one."
    )


class ModelFolderError(LmError):
    """A base model cannot be found, or its folder lacks what is needed."""


class TableError(LmError):
    """A file of prompts and responses cannot be read; the message never quotes a value."""


class SamplingError(LmError):
    """A sampling engine is not available or failed."""


class ScoringError(LmError):
    """A reward or a likelihood is not a finite number."""
