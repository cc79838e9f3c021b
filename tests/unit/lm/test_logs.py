"""One entry is one line, in either form, and quotes no exception."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm.logs import LogFormat, LogLevel, last_word, log_to_file, relay, set_up_logs


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    logging.getLogger("some_package").setLevel(logging.NOTSET)


def written(form: LogFormat, level: LogLevel = LogLevel.INFO) -> str:
    stream = io.StringIO()
    set_up_logs("some_package", form=form, level=level, stream=stream)
    own, foreign = logging.getLogger("some_package.part"), logging.getLogger("foreign")
    own.info("first\nsecond")
    own.debug("detail")
    foreign.info("chatter")
    foreign.warning("trouble")
    try:
        raise ValueError("quotes a record")
    except ValueError:
        own.exception("failed")
    return stream.getvalue()


def test_lines_hold_one_entry_each() -> None:
    lines = written(LogFormat.LINES).splitlines()

    assert [line.split(maxsplit=2)[1:] for line in lines] == [
        ["INFO", "first\\nsecond"],
        ["WARNING", "trouble"],
        ["ERROR", "failed (ValueError)"],
    ]


def test_json_holds_one_object_a_line() -> None:
    entries = [json.loads(line) for line in written(LogFormat.JSON).splitlines()]

    assert [entry["message"] for entry in entries] == [
        "first\nsecond",
        "trouble",
        "failed (ValueError)",
    ]
    assert [entry["level"] for entry in entries] == ["info", "warning", "error"]


@pytest.mark.parametrize("form", list(LogFormat))
def test_an_exceptions_text_is_not_written(form: LogFormat) -> None:
    assert "quotes a record" not in written(form, LogLevel.DEBUG)


def test_the_level_decides() -> None:
    assert "detail" in written(LogFormat.LINES, LogLevel.DEBUG)
    assert "first" not in written(LogFormat.LINES, LogLevel.WARNING)


def test_what_another_program_prints_gets_the_same_form(tmp_path: Path) -> None:
    printed = (
        b"\x1b[92mINFO \x1b[0m:      Started\n",
        b"\n",
        b"WARNING : \n",
        b"no level \xff\n",
        b"ERROR: broke off\n",
        b"DEBUG: detail\n",
        b"2026-01-01T00:00:00.123Z ERROR [uvicorn.error] bad\n",
    )
    logger, seen = logging.Logger("link"), list[str]()
    log_to_file(logger, tmp_path / "log", form=LogFormat.JSON, level=LogLevel.INFO)

    relay(printed, logger, on_line=seen.append)

    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(entry["level"], entry["message"], entry["where"]) for entry in entries] == [
        ("info", "Started", "link"),
        ("info", "no level \ufffd", "link"),
        ("error", "broke off", "link"),
        ("error", "[uvicorn.error] bad", "link"),
    ]
    assert len(seen) == 6
    for handler in logger.handlers:
        handler.close()


def test_the_last_word_has_the_form_of_the_log() -> None:
    written(LogFormat.LINES)
    assert last_word("Expected\nmore.") == "Error: Expected\nmore."

    written(LogFormat.JSON)
    entry = json.loads(last_word("Expected\nmore."))
    assert (entry["level"], entry["message"]) == ("error", "Expected\nmore.")
