"""A signal that ends a process is never lost, also not in the middle of a fork."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lm.leaving import raise_on, signals_held

# Hooks run after each fork; an exception that is raised in one is dropped.
STOPPED_IN_THE_MIDDLE_OF_A_FORK = """
import os, signal, subprocess, sys
from lm.leaving import raise_on, signals_held
raise_on({signal.SIGTERM: lambda: SystemExit(143)})
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGTERM))
with signals_held():
    child = subprocess.Popen([sys.executable, "-c", ""], preexec_fn=int)
    child.wait()
    print("started", flush=True)
print("went on", flush=True)
"""


@pytest.fixture(autouse=True)
def handler_restored() -> Iterator[None]:
    earlier = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, earlier)


def send() -> None:
    # Handled before it returns, which one that is sent by `os.kill` need not be.
    signal.raise_signal(signal.SIGTERM)


def test_a_signal_is_raised_where_it_comes() -> None:
    raise_on({signal.SIGTERM: lambda: SystemExit(143)})

    with pytest.raises(SystemExit, match="143"):
        send()


def test_a_signal_in_the_middle_of_a_fork_ends_the_process_after_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_THE_MIDDLE_OF_A_FORK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (143, "started\n", "")


def test_held_blocks_may_lie_in_each_other_and_the_first_signal_counts() -> None:
    came: list[str] = []
    raise_on({signal.SIGTERM: lambda: SystemExit(len(came))})

    @signals_held()
    def inner() -> None:
        came.append("first")
        send()

    @signals_held()
    def outer() -> None:
        inner()
        came.append("second")
        send()

    with pytest.raises(SystemExit, match="1"):
        outer()
    assert came == ["first", "second"]

    with signals_held():
        pass  # the signal that waited is not raised twice
