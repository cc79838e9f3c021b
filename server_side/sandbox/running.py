"""Run a Python program that nobody has read: a model wrote it.

One process for each program, started from nothing (no environment, no input, no descriptor but its
output) and confined by the kernel before the first line runs. No container engine and no helper
program is needed; the means are those of `server_side/sandbox/kernel.py`, in one of two ways:

- `namespaces`: a user, mount, network and IPC namespace of its own. It sees Python's libraries,
  read-only, and an empty folder in memory.
- `landlock`: where namespaces are not to be had (most containers, some distributions). The kernel's
  Landlock (6.2 and later) lets it read the same libraries and write in an empty folder on disk.

In both ways seccomp refuses every system call that is not on a short list, and all capabilities are
dropped. Where neither way works, nothing is run: `find_confinement` says why.

Covers, in both ways, for root and for an ordinary user:
- Network: no socket can be made, of any kind.
- Processes: no process, thread or other program can be started; nobody can be signalled or traced.
  So there is nothing to fork, and nothing to leave behind. The process group is killed at the end.
- Files: none of the user's can be opened, listed, changed or removed. The scratch folder is
  empty, takes plain files only, and vanishes with the program.
- Limits: CPU time, time on the clock, address space, size of a file and of all files, open files,
  and output. A program that exceeds one is killed, or gets an error that it may handle.
- The server dies: the kernel kills the program.

Does not cover:
- A flaw in the kernel, or in the processor (side channels between processes).
- Libraries are readable: `/lib`, `/usr/lib` and where Python's own lie. Keep no secret there.
- `landlock` only: whether a file exists, its size and times can be asked for by name, though
  nothing can be opened. No quota holds all files together: they are looked at from outside every
  `SECONDS_BETWEEN_LOOKS`, and what is written between two looks can go beyond `disk_bytes`
  (`server_side/sandbox/scratch.py`).
- Memory that is not address space: none to speak of with one process, no shared memory and few
  open files, but in `namespaces` the scratch folder counts beside `memory_bytes`.
- Whether what the program says is true. It can print anything: see
  `server_side/sandbox/code_tests.py`.
- Other systems than Linux on x86-64 and 64-bit ARM: refused. (Seen at work on x86-64 only.)
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from protocol.errors import ConfigurationError, StageError
from server_side.sandbox.scratch import is_overfull

SECONDS_BETWEEN_LOOKS: Final = 0.02
"""How often `landlock` has the scratch folder looked at. In a longer time more is written before a
program is killed; a shorter one takes a noticeable part of a core from many programs at a time."""

_START: Final = """
import sys
sys.path.append(sys.argv[1])
from server_side.sandbox.child import main
sys.path.pop()
main()
"""
_READY: Final = b"ready"
_MAX_REASON_BYTES: Final = 1000


class Confinement(StrEnum):
    """How a program is kept from files and network."""

    NAMESPACES = "namespaces"
    """It sees a file system of its own."""
    LANDLOCK = "landlock"
    """It sees the machine's, and may open little of it."""


class Ending(StrEnum):
    """How a program ended."""

    FINISHED = "finished"
    """By itself, without an error."""
    FAILED = "failed"
    """By an error, a signal, or an exit status other than 0."""
    TIMED_OUT = "timed_out"
    """Killed for its CPU time or its time on the clock."""
    TALKED_TOO_MUCH = "talked_too_much"
    """Killed for its output."""
    WROTE_TOO_MUCH = "wrote_too_much"
    """Killed for its files. By `landlock` only: with namespaces a full folder is an error to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxLimits:
    """What a program may use."""

    cpu_seconds: int = 5
    """Time on a processor, the start of Python included."""
    wall_seconds: float = 20.0
    """Time on the clock; longer than `cpu_seconds`, since other programs run beside it."""
    memory_bytes: int = 512 * 1024 * 1024
    """Address space."""
    file_bytes: int = 16 * 1024 * 1024
    """Largest file; with namespaces also all files together."""
    disk_bytes: int = 64 * 1024 * 1024
    """All files together, by `landlock`, removed ones that are in use included."""
    output_bytes: int = 128 * 1024
    """Most that it may write to its output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfinedRun:
    """What became of a program."""

    ending: Ending
    """How it ended."""
    output: bytes
    """What it wrote to its output, up to the limit. Written by the program: trust nothing in it."""


def run_confined(
    program: str, *, limits: SandboxLimits | None = None, confinement: Confinement | None = None
) -> ConfinedRun:
    """Run a Python program that may do its worst.

    Args:
        program: Its source. It sees the standard library and an empty working directory; standard
            input is empty, and what it writes to standard output is returned.
        limits: What it may use; None takes the defaults.
        confinement: How it is kept from files and network; None takes what works here.

    Returns:
        How it ended, and its output.

    Raises:
        ConfigurationError: Neither way of confining works here; nothing was run.
        StageError: The process could not be confined this time; nothing was run.
    """
    limits = limits or SandboxLimits()
    confinement = confinement or find_confinement()
    run, reason = _run(program, limits=limits, confinement=confinement)
    if run is None:
        raise StageError(
            f"Expected to confine a program by {confinement}, got: {reason or 'no answer'}. "
            "Nothing was run. Try again; if it stays, see docs/code_execution.md."
        )
    return run


@functools.cache
def find_confinement() -> Confinement:
    """Return the first way of confining that works here, by trying it.

    Raises:
        ConfigurationError: None does; the message says why, for each.
    """
    reasons = []
    for confinement in Confinement if sys.platform == "linux" else ():
        run, reason = _run("print(1 + 1)", limits=SandboxLimits(), confinement=confinement)
        if run is not None and run.output == b"2\n":
            return confinement
        reasons.append(f"{confinement}: {reason or 'no answer'}")
    raise ConfigurationError(
        "Expected a Linux that can confine untrusted programs, found "
        f"{'; '.join(reasons) or sys.platform}. Allow user namespaces, or use a kernel of 6.2 or "
        "later with Landlock (docs/code_execution.md), or leave evaluation.tests_column unset. "
        "Nothing is ever run unconfined."
    )


def _run(
    program: str, *, limits: SandboxLimits, confinement: Confinement
) -> tuple[ConfinedRun | None, str]:
    """Return what became of the program, or None with the reason why it was not run."""
    with tempfile.TemporaryDirectory(prefix="rewardds-run-", ignore_cleanup_errors=True) as folder:
        request = {
            "program": program,
            "folder": folder,
            "confinement": confinement.value,
            "parent": os.getpid(),
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
        }
        try:
            process = _start()
        except OSError as problem:
            return None, f"{problem.filename}: {problem.strerror}"
        is_full = partial(
            is_overfull, folder, max_bytes=limits.disk_bytes, max_file_bytes=limits.file_bytes
        )
        # With namespaces the folder that it fills is not this one, and has a size of its own.
        watch = partial(is_full, process.pid) if confinement is Confinement.LANDLOCK else None
        try:
            output, reason, ending = _talk(
                process, json.dumps(request).encode(), limits=limits, is_overfull=watch
            )
        finally:
            # Its group is itself alone, as it can start nobody; killed all the same.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        # A program that was quicker than the next look gets the same verdict as a slower one.
        if ending is None and is_full(None):
            ending = Ending.WROTE_TOO_MUCH
    if reason != _READY:
        return None, reason.decode(errors="replace")
    if ending is None and code in (-signal.SIGXCPU, -signal.SIGKILL):
        ending = Ending.TIMED_OUT
    ending = ending or (Ending.FAILED if code else Ending.FINISHED)
    return ConfinedRun(ending=ending, output=output[: limits.output_bytes]), ""


def _start() -> subprocess.Popen[bytes]:
    # The interpreter itself, not a virtual environment's link to it: only its own libraries are
    # seen from inside. -s and -S leave all installed packages out, -P the working directory.
    interpreter = os.path.realpath(sys.executable)
    flags = ("-s", "-S", "-P", "-B", "-X", "utf8")
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(  # noqa: S603 - this interpreter on this package, nothing from outside
        [interpreter, *flags, "-c", _START, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # The order of sets follows from it: one candidate gets one verdict, run after run.
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
    )


def _talk(
    process: subprocess.Popen[bytes],
    request: bytes,
    *,
    limits: SandboxLimits,
    is_overfull: Callable[[], bool] | None,
) -> tuple[bytes, bytes, Ending | None]:
    """Hand over the request, and read until all is said, a limit is exceeded, or time is up.

    Returns:
        Output, reason, and for what the program is to be killed; None where it ended by itself.
    """
    deadline = time.monotonic() + limits.wall_seconds
    next_look = 0.0 if is_overfull else deadline
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        # Where it has ended already, it left its reason to read.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(request)
        output, reason = process.stdout.fileno(), process.stderr.fileno()
        heard = {output: b"", reason: b""}
        most = {output: limits.output_bytes, reason: _MAX_REASON_BYTES}
        for stream in heard:
            selector.register(stream, selectors.EVENT_READ)
        ending = None
        while ending is None and (selector.get_map() or process.poll() is None):
            if is_overfull and (now := time.monotonic()) >= next_look:
                next_look = now + SECONDS_BETWEEN_LOOKS
                if is_overfull():
                    ending = Ending.WROTE_TOO_MUCH
                    break
            pause = max(0.0, min(next_look, deadline) - time.monotonic())
            if selector.get_map():
                for key, _ in selector.select(timeout=pause):
                    chunk = os.read(key.fd, 65536)
                    heard[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
            else:
                # Both are closed; a program can close its output and go on, but not for ever.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=pause)
            if any(len(heard[stream]) > most[stream] for stream in heard):
                ending = Ending.TALKED_TOO_MUCH
            elif process.returncode is None and time.monotonic() >= deadline:
                ending = Ending.TIMED_OUT
    return heard[output], heard[reason], ending
