"""How a node logs: plain lines for people or JSON for a collector, one entry a line.

What may be logged is decided where it is logged; here is only the form. A line break inside an
entry is escaped, so that nothing that came from elsewhere can pass for an entry of its own. What a
program of somebody else's prints is taken in by `relay` and gets the same form.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, TextIO

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
# Flower writes `INFO :  text`, its servers `2026-01-01T00:00:00Z INFO [name] text`.
_LEVEL: Final = re.compile(
    r"(?:\d{4}-\S+Z\s+)?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)(?:\s*:\s*|\s+(?=\[))"
)


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
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """Write one entry as one line."""
        time = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="seconds")
        message = record.getMessage()
        if record.exc_info:
            # Type alone: a traceback's text may quote what a library was given.
            kind = record.exc_info[0]
            message += f" ({kind.__name__ if kind else 'unknown error'})"
        match self.form:
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
    logging.captureWarnings(capture=True)
    number = logging.getLevelNamesMapping()[level.value.upper()]
    root.setLevel(number if level is LogLevel.DEBUG else max(number, logging.WARNING))
    for package in packages:
        logging.getLogger(package).setLevel(number)


def log_to_file(logger: logging.Logger, file: Path, *, form: LogFormat, level: LogLevel) -> None:
    """Write what a logger gets to a file, after what stands there.

    Args:
        logger: The logger.
        file: Where to.
        form: Lines or JSON.
        level: From which level on.
    """
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(_Formatter(form))
    logger.addHandler(handler)
    logger.setLevel(logging.getLevelNamesMapping()[level.value.upper()])


def relay(
    lines: Iterable[bytes],
    logger: logging.Logger,
    *,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Hand each line that another program prints to a logger, at the level that it names.

    Args:
        lines: What it prints, until it ends.
        logger: Where its lines go.
        on_line: Is shown each line that is not empty, whatever its level.
    """
    for raw in lines:
        line = _COLOUR.sub("", raw.decode("utf-8", errors="replace")).rstrip()
        if not line:
            continue
        on_line(line)
        found = _LEVEL.match(line)
        level = logging.getLevelNamesMapping()[found.group(1)] if found else logging.INFO
        if text := line[found.end() :] if found else line:
            logger.log(level, "%s", text)


def last_word(message: str) -> str:
    """Give what a program says as it fails, in the form that its log has.

    Args:
        message: What went wrong.

    Returns:
        A line for standard error: JSON where the log is, otherwise text for a person.
    """
    for handler in logging.getLogger().handlers:
        form = handler.formatter
        if isinstance(form, _Formatter) and form.form is LogFormat.JSON:
            entry = {"name": "main", "levelname": "ERROR", "levelno": logging.ERROR, "msg": message}
            return form.format(logging.makeLogRecord(entry))
    return f"Error: {message}"
