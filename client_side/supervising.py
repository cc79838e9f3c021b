"""Keep a client's node running: start it, watch it, end what it left behind, start it again.

A node ends for many reasons that pass: it was killed, the server was away in the middle of a TLS
handshake, or it came back within the minute in which the server still takes it for present. None of
them is this machine's operator's business, so the loop goes on until it is told to stop. How often
and why stands in `node.json`, for `rewardds-client status`.

Covers: the node and everything it started, which share one process group; this process's own end,
whichever way (the kernel tells the node).
Does not cover: a machine that restarts; that is for the unit in `deploy/`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Final

import psutil

from client_side import pinning
from client_side.folder import ClientFolder, check_findable, read_status, write_private_file
from lm.leaving import dying_with_parent, raise_on, signals_held
from lm.locks import is_held
from lm.logs import relay

NODE_STATUS_FILE: Final = "node.json"
"""How the node is, in a client's folder."""

_CLIENT_COMMAND: Final = "flwr-clientapp"
_STOP_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.2
_NUM_LAST_LINES: Final = 8
_NODE_LOGGER: Final = logging.getLogger("client_side.node.flower")
_LOGGER = logging.getLogger(__name__)

_LOST_REPLY: Final = "Failed to send message"
"""What Flower's node says when it gives an answer up."""

_LATE_REPLY: Final = "Ignoring reply message"
"""What it says when it has an answer to a try that the server has ended. It takes that answer for
the one to the message at hand, and would never send the one that is waited for."""

_SENDING: Final = "Sending: "
"""What it says before it sends an answer."""

_HANDING_OVER_SECONDS: Final = 10.0
"""A node looks for an answer twice a second. One that it sends longer than this after its client
process died is not torn but whole: Flower's own word that the process crashed, which Flower learns
half a minute after it at the earliest. Sent, it is counted; lost, the client would be asked for
ever."""

_SENT: Final = ("Sent successfully", _LOST_REPLY, _LATE_REPLY)
"""One of these follows. Where the client process was killed while it handed the answer over, none
does: the node would wait for ever for the rest of it."""

_TORN_REPLY: Final = "The client process was killed while it handed its answer over."

# Patterns. Numbers stand as words: run numbers and ids are full of any three digits.
_REASONS: Final = (
    (_TORN_REPLY, "the client process was killed in the middle of an answer; it is asked again"),
    (_LATE_REPLY, "an answer came after the server had ended that try; the node starts afresh"),
    (_LOST_REPLY, "an answer could not be sent; it is given again when the server asks again"),
    ("Failed to activate", "the server still takes this node for present; it lets it in later"),
    ("No SuperNode found", "the server does not know this node's key; ask its operator"),
    ("part that starts client processes", "its part that starts client processes ended"),
    (r"\b401\b", "the server does not know this node's key; ask its operator"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not of the authority that we trust"),
    ("does not point to a file", "a key or certificate in the client's folder is missing"),
    ("certificate", "the server's certificate is not accepted"),
    ("SSL", "the connection broke off inside TLS"),
    ("address already in use", "another node uses runtime_port; choose another one"),
)


class Stop(BaseException):
    """The supervisor was told to stop."""


def stop_on_signals() -> None:
    """Turn the signals that end a process into `Stop`, so that the node ends in order."""
    raise_on(dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), Stop))


def running_file(folder: ClientFolder) -> Path:
    """Return the file that the supervisor of the one node holds for as long as it lives."""
    return folder.path / ".running"


def at_work_file(folder: ClientFolder) -> Path:
    """Return the file in which the client process notes its number while it is at work."""
    return folder.path / "client_process"


def keep_running(
    folder: ClientFolder,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    restart_seconds: float,
    may_go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Run a node until told to stop; start it again whenever it ends.

    Args:
        folder: The client's folder.
        command: What starts the node.
        environment: Its whole environment.
        restart_seconds: Pause before it is started again.
        may_go_on: Asked before each start but the first; False ends the loop.

    Raises:
        Stop: A signal said so; the node has ended by then.
    """
    num_starts = 0
    while num_starts == 0 or may_go_on():
        num_starts += 1
        lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
        died = _Died(at_work_file(folder))
        must_start_afresh, is_sending = threading.Event(), threading.Event()
        with ExitStack() as ending:
            # Whatever was started is ended, also if a signal comes while it starts.
            with signals_held():
                ending.callback(_note, folder, "stopped", num_starts=num_starts)
                node = _start(command, environment, cwd=folder.path)
                pump = threading.Thread(
                    target=_relay,
                    args=(node.stdout, lines, must_start_afresh, is_sending),
                    daemon=True,
                )
                pump.start()
                ending.callback(_end, node, pump)
            _note(folder, "running", num_starts=num_starts, pid=node.pid)
            # A node that lost its answer, or mixes answers up, goes on as if nothing were; started
            # anew, it is asked again, and answers from its store.
            while node.poll() is None and not must_start_afresh.is_set():
                time.sleep(_LOOK_SECONDS)
                if died.while_handing_over(is_sending=is_sending.is_set()):
                    lines.append(_TORN_REPLY)
                    must_start_afresh.set()
            has_ended = node.poll() is not None
        reason = _reason(lines, node.returncode, has_ended=has_ended)
        _LOGGER.warning("The node ended: %s. Next start in %g s.", reason, restart_seconds)
        _note(folder, "waiting to start again", num_starts=num_starts, reason=reason)
        time.sleep(restart_seconds)


def make_shims(folder: ClientFolder) -> Path:
    """Put this project's programs before Flower's in a node's search path.

    Args:
        folder: The client's folder.

    Returns:
        The folder that must come first in `PATH`.

    Raises:
        ConfigurationError: The folder's path cannot stand in a `PATH`.

    Privacy:
        Flower runs the program that the server's task type names. Only the client process may run,
        and only through the check of the pinned bundle; every other type meets a refusal.
    """
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    check_findable(folder)
    shims = folder.path.resolve() / "bin"
    shims.mkdir(mode=0o700, exist_ok=True)
    # `-P`: the script's own folder is not searched for modules.
    words = shlex.join([sys.executable, "-P", str(Path(pinning.__file__).resolve())])
    checked = f'exec {words} "$@"\n'
    refusal = 'echo "ERROR: This node runs client processes only." >&2\nexit 1\n'
    for name in {*TASK_TYPE_TO_COMMAND.values(), _CLIENT_COMMAND}:
        script = shims / name
        body = checked if name == _CLIENT_COMMAND else refusal
        # Privacy: at every moment whole and to be run, so that a node which runs already finds no
        # other program of the name while a second start is refused.
        write_private_file(script, f"#!/bin/sh\n{body}".encode(), mode=stat.S_IRWXU)
    return shims


def read_node_status(folder: ClientFolder) -> dict[str, object] | None:
    """Read how the node is.

    Args:
        folder: The client's folder.

    Returns:
        JSON values, or None if no node was ever started.

    Raises:
        ConfigurationError: What was noted is damaged.
    """
    status = read_status(
        folder.path / NODE_STATUS_FILE, keys={"state", "since", "num_starts", "reason"}
    )
    if status is not None and not is_held(running_file(folder)):
        # Killed, the supervisor could not note that it stopped.
        status["state"] = "stopped"
    return status


def _start(
    command: Sequence[str], environment: Mapping[str, str], *, cwd: Path
) -> subprocess.Popen[bytes]:
    # Fixed program and arguments of this project; nothing in them comes from the wire.
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=cwd,
        # A group of its own, so that all that it started can be ended with it.
        start_new_session=True,
        preexec_fn=dying_with_parent(signal.SIGTERM),
    )


def _relay(
    stream: IO[bytes] | None,
    lines: deque[str],
    must_start_afresh: threading.Event,
    is_sending: threading.Event,
) -> None:
    """Hand each line that the node prints to the log, and keep the last ones."""

    def note(line: str) -> None:
        lines.append(line)
        if _SENDING in line:
            is_sending.set()
        elif any(sign in line for sign in _SENT):
            is_sending.clear()
        if _LOST_REPLY in line or _LATE_REPLY in line:
            must_start_afresh.set()

    relay(stream or (), _NODE_LOGGER, on_line=note)


class _Died:
    """Tells a client process that died handing its answer over from one that died at its work."""

    def __init__(self, at_work: Path) -> None:
        self._at_work = at_work
        self._number: int | None = None
        self._since = 0.0

    def while_handing_over(self, *, is_sending: bool) -> bool:
        """Look; called again and again, also while nothing is sent."""
        number = _killed(self._at_work)
        now = time.monotonic()
        if number is None or number != self._number:
            self._number, self._since = number, now
        return number is not None and is_sending and now - self._since <= _HANDING_OVER_SECONDS


def _killed(at_work: Path) -> int | None:
    """Return the number of a client process that began and neither lives nor ended in order."""
    try:
        number = int(at_work.read_text(encoding="ascii"))
        is_dead = psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        # It may have ended in order between the two looks.
        is_dead = at_work.is_file()
    except (OSError, ValueError):
        return None  # not there, or just being written
    return number if is_dead else None


def _end(node: subprocess.Popen[bytes], pump: threading.Thread) -> None:
    _end_group(node)
    pump.join(timeout=_STOP_SECONDS)
    if node.stdout is not None and not pump.is_alive():
        node.stdout.close()


def _end_group(node: subprocess.Popen[bytes]) -> None:
    """End the node and everything it started, first kindly."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(node.pid, number)
        give_up = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < give_up and _group_lives(node):
            time.sleep(_LOOK_SECONDS)
        if not _group_lives(node):
            break
    node.wait()


def _group_lives(node: subprocess.Popen[bytes]) -> bool:
    node.poll()  # lets the system forget the node itself
    for process in psutil.process_iter():
        # What has ended stays listed where the first process of a container waits for nobody.
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == node.pid and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _reason(lines: Sequence[str], code: int | None, *, has_ended: bool) -> str:
    """Say why a node ended, by itself or because it was ended to be started afresh."""
    if has_ended and code is not None and code < 0:
        return f"it was killed by signal {-code}"
    text = "\n".join(lines)
    for sign, reason in _REASONS:
        if re.search(sign, text):
            return reason
    return f"it ended with code {code}"


def _note(
    folder: ClientFolder, state: str, *, num_starts: int, reason: str = "", pid: int | None = None
) -> None:
    status = {
        "state": state,
        "since": int(time.time()),
        "pid": pid,
        "num_starts": num_starts,
        "reason": reason,
    }
    try:
        write_private_file(folder.path / NODE_STATUS_FILE, json.dumps(status).encode())
    except OSError as error:
        # A full disk passes; a node that nobody starts again does not.
        _LOGGER.warning("How the node is could not be noted: %s.", error.strerror)
