"""A folder has one master, and who looks whether it has one does not stand in its way."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from lm.locks import held, is_held

BUSY = ValueError("busy")


def test_a_held_file_is_seen_as_held_and_refused_to_others(tmp_path: Path) -> None:
    file = tmp_path / "lock"

    before = is_held(file)
    with held(file, busy=BUSY):
        during = is_held(file)
        with pytest.raises(ValueError, match="busy"), held(file, busy=BUSY):
            pytest.fail("two hold it")
    after = is_held(file)

    assert (before, during, after) == (False, True, False)


def test_a_look_at_the_wrong_moment_does_not_refuse_the_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    is_looking = threading.Event()

    def look() -> None:
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            is_looking.set()
            time.sleep(0.2)

    looker = threading.Thread(target=look)
    looker.start()
    assert is_looking.wait(5)

    with held(file, busy=BUSY):
        assert is_held(file)
    looker.join()
