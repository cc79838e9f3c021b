"""Child processes that end when their parent does, whichever way it ends.

Covers: normal end, error, Ctrl-C, SIGTERM (all by `Children.__exit__`), and `kill -9` of the parent
(by the kernel's parent-death signal to each child; Flower's own processes watch their parents).
Grandchildren that set up sessions of their own are found because this process adopts orphans, and
are told from anybody else's processes by a mark in their environment.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from lm.leaving import dying_with_parent, raise_on, signals_held
from lm.logs import LogFormat, LogLevel, log_to_file, relay
from protocol.errors import ExchangeError

_LOGGER = logging.getLogger(__name__)
_GRACE_SECONDS: Final = 5.0
_PR_SET_CHILD_SUBREAPER: Final = 36
_NUM_LOG_LINES: Final = 5
_MARK: Final = "REWARDDS_CHILD_OF"


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """One process that was started."""

    name: str
    """What it is, for messages."""
    process: subprocess.Popen[bytes]
    """The process."""
    log_file: Path
    """Where it writes."""

    @property
    def how_it_ended(self) -> str:
        """Its exit code, its log and the end of that; for a child that has ended."""
        return (
            f"ended with code {self.process.returncode}. See {self.log_file}"
            f"{last_lines(self.log_file)}"
        )


class Children:
    """The processes of one exchange; leaving the `with` block ends them and all they started."""

    def __init__(self, log_folder: Path) -> None:
        """Begin without any.

        Args:
            log_folder: Where each child's output goes, `<name>.log`; made if absent.
        """
        self._log_folder = log_folder
        self._children: list[Child] = []
        self._prctl = _load_prctl()
        self._mark = secrets.token_hex(8)

    def __enter__(self) -> Self:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        if self._prctl is not None:
            # Orphans come to this process, not to init, and so stay within reach.
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @signals_held()
    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        entries: tuple[LogFormat, LogLevel] | None = None,
    ) -> Child:
        """Start a process.

        Args:
            name: What it is, for messages and its log file.
            command: Program and arguments.
            environment: Its whole environment.
            cwd: Where it runs.
            entries: In what form and from which level on its lines are written; None leaves them
                as they are.

        Returns:
            The child.

        Raises:
            ExchangeError: The program cannot be started.
        """
        log_file = self._log_folder / f"{name}.log"
        with log_file.open("ab") as log:
            try:
                # Fixed programs and arguments of this project; nothing from the wire.
                process = subprocess.Popen(  # noqa: S603
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log if entries is None else subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**environment, _MARK: self._mark},
                    cwd=cwd,
                    # A Ctrl-C at the terminal is this process's to handle, once, in order.
                    start_new_session=True,
                    preexec_fn=dying_with_parent(signal.SIGTERM),
                )
            except OSError as problem:
                raise ExchangeError(
                    f"Expected to start {command[0]}, got: {problem.strerror}. Run `make setup`."
                ) from None
        child = Child(name=name, process=process, log_file=log_file)
        self._children.append(child)
        if entries is not None:
            form, level = entries
            threading.Thread(target=_relay, args=(child, form, level), daemon=True).start()
        return child

    def check(self) -> None:
        """Make sure that all children are alive.

        Raises:
            ExchangeError: One has ended; the message shows the end of its log.
        """
        for child in self.ended():
            raise ExchangeError(
                f"Expected {child.name} to run until the exchange is over, but it "
                f"{child.how_it_ended}"
            )

    def ended(self) -> tuple[Child, ...]:
        """Return the children that have ended by themselves, in the order of their start."""
        return tuple(child for child in self._children if child.process.poll() is not None)

    def stop(self) -> None:
        """End all children and whatever they started, first kindly, then not."""
        for child in self._children:
            if child.process.poll() is None:
                with suppress(ProcessLookupError):
                    child.process.terminate()
        try:
            self._end_all()
        finally:
            for child in self._children:
                child.process.poll()  # lets the system forget it
            self._children.clear()

    def _end_all(self) -> None:
        seconds = _GRACE_SECONDS
        # Killing a process can hand its children over to this one: look again until none is left.
        for _ in range(5):
            _, alive = psutil.wait_procs(self._living(), timeout=seconds)
            seconds = 1.0
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            # A process that is killed loses its mark before it is gone: wait for it by number.
            psutil.wait_procs(alive, timeout=seconds)
            if not self._living():
                return
        _LOGGER.warning("Some processes of the exchange could not be ended.")

    def _living(self) -> list[psutil.Process]:
        """Return all descendants of this process that carry this exchange's mark."""
        found = []
        for process in psutil.Process(os.getpid()).children(recursive=True):
            # A zombie has no environment any more, and needs no end.
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
        return found


def _relay(child: Child, form: LogFormat, level: LogLevel) -> None:
    """Write what a child prints to its log file, as long as somebody can print there."""
    # Outside the tree of loggers: what a child prints stands in its own file alone.
    logger = logging.Logger(child.name)
    log_to_file(logger, child.log_file, form=form, level=level)
    with child.process.stdout or nullcontext(()) as lines:
        relay(lines, logger)
    for handler in logger.handlers:
        handler.close()


def raise_on_signals() -> None:
    """Turn signals that end a process into exceptions, so that `with` blocks are left in order."""
    signals: dict[signal.Signals, Callable[[], BaseException]] = {
        signal.SIGTERM: partial(SystemExit, 128 + signal.SIGTERM),
        # A shell starts background jobs with it ignored; whoever sends it means it all the same.
        signal.SIGINT: KeyboardInterrupt,
    }
    # Under `nohup` it is ignored, on purpose.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals[signal.SIGHUP] = partial(SystemExit, 128 + signal.SIGHUP)
    raise_on(signals)


def last_lines(file: Path, *, num_lines: int = _NUM_LOG_LINES) -> str:
    """Return the last lines of a log, indented; a full stop where there are none.

    Args:
        file: The log, which need not be there.
        num_lines: How many lines at most; empty ones are passed over.

    Returns:
        What ends a sentence that names the log: a colon and the lines, each on a line of its own,
        or a full stop.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "."
    lines = [line for line in text.splitlines() if line.strip()][-num_lines:]
    return ":" + "".join(f"\n  | {line}" for line in lines) if lines else "."


def _load_prctl() -> Callable[[int, int], object] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Loaded before any fork: the code between fork and exec may not take locks.
    libc = ctypes.CDLL(None, use_errno=True)
    function: Callable[[int, int], object] = libc.prctl
    return function
