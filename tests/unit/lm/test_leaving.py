"""A signal that ends a process is never lost, also not in the middle of a fork.

Each case is a process of its own: in one that computes with a large register file (AMX), a handler
may find too little room on the stack that test runners set aside for it.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

_BEGINNING = """
import os, signal, subprocess, sys
from lm.leaving import raise_on, signals_held

def say(text):
    print(text, flush=True)

def send():
    signal.raise_signal(signal.SIGTERM)

raise_on({signal.SIGTERM: lambda: SystemExit(143)})
"""


def run(script: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", _BEGINNING + script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_signal_is_raised_where_it_comes() -> None:
    assert run("say('before'); send(); say('after')") == (143, "before\n")


def test_a_signal_in_the_middle_of_a_fork_ends_the_process_after_it() -> None:
    """Hooks run after each fork, and an exception that is raised in one is dropped."""
    assert run("""
os.register_at_fork(after_in_parent=send)
with signals_held():
    subprocess.Popen([sys.executable, "-c", ""], preexec_fn=int).wait()
    say("started")
say("went on")
""") == (143, "started\n")


@pytest.mark.parametrize("num_signals", [1, 2])
def test_held_blocks_may_lie_in_each_other_and_the_first_signal_counts(num_signals: int) -> None:
    assert run(f"""
with signals_held():
    with signals_held():
        send()
    say("still held")
    if {num_signals} == 2:
        raise_on({{signal.SIGTERM: lambda: SystemExit(7)}})
        send()
say("went on")
""") == (143, "still held\n")


def test_a_signal_that_waited_is_raised_once() -> None:
    assert run("""
try:
    with signals_held():
        send()
except SystemExit as ending:
    say(ending.code)
with signals_held():
    pass
say("went on")
""") == (0, "143\nwent on\n")
