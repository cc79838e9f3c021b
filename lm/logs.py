"""How a node logs: plain lines for people or JSON for a collector, one entry a line.

What may be logged is decided where it is logged; here is only the form. A line break inside an
entry is escaped, so that nothing that came from elsewhere can pass for an entry of its own.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO


class LogFormat(StrEnum):
    """In what form a log is written."""

    LINES = "lines"
    """Time, level and message, for people."""
    JSON = "json"
    """One JSON object a line, for a collector."""


class LogLevel(StrEnum):
    """From which level on entries are written."""

    DEBUG = "debug"
    """Everything, the libraries' own entries included."""
    INFO = "info"
    """What happens."""
    WARNING = "warning"
    """What may need a look."""
    ERROR = "error"
    """What went wrong."""


class _Formatter(logging.Formatter):
    def __init__(self, form: LogFormat) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Write one entry as one line."""
        time = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="seconds")
        message = record.getMessage()
        if record.exc_info:
            # Type alone: a traceback's text may quote what a library was given.
            kind = record.exc_info[0]
            message += f" ({kind.__name__ if kind else 'unknown error'})"
        match self._form:
            case LogFormat.LINES:
                escaped = message.replace("\r", "\\r").replace("\n", "\\n")
                return f"{time} {record.levelname:<7} {escaped}"
            case LogFormat.JSON:
                entry = {
                    "time": time,
                    "level": record.levelname.lower(),
                    "where": record.name,
                    "message": message,
                }
                return json.dumps(entry, ensure_ascii=False)


def set_up_logs(
    *packages: str, form: LogFormat, level: LogLevel, stream: TextIO | None = None
) -> None:
    """Write this process's log.

    Args:
        *packages: Packages whose entries are written from `level` on; others from warnings on.
        form: Lines or JSON.
        level: From which level on.
        stream: Where to; standard error if None.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(_Formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = logging.getLevelNamesMapping()[level.value.upper()]
    root.setLevel(number if level is LogLevel.DEBUG else max(number, logging.WARNING))
    for package in packages:
        logging.getLogger(package).setLevel(number)
