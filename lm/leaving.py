"""Signals that end a process, turned into exceptions, so that `with` blocks are left in order.

Around a fork they wait: Python drops whatever is raised inside its hooks of `fork`, where a signal
that comes in the middle of it is handled first, and the process would go on as if nobody had asked.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SS_DISABLE: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_is_held = False
_waiting: list[BaseException] = []


def raise_on(signals: Mapping[signal.Signals, Callable[[], BaseException]]) -> None:
    """Raise an exception in the main thread when a signal comes.

    Args:
        signals: What makes the exception, for each signal.
    """

    def leave(number: int, _: FrameType | None) -> None:
        error = signals[signal.Signals(number)]()
        if not _is_held:
            raise error
        _waiting.append(error)

    for number in signals:
        signal.signal(number, leave)


def dying_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Return what has the process that calls it get a signal once its parent is gone; Linux alone.

    Args:
        number: The signal.

    Returns:
        A function that takes no locks, so that it may be called between fork and exec.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl: Callable[[int, int], object] = ctypes.CDLL(None).prctl

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, number)

    return die_with_parent


class _Stack(ctypes.Structure):
    """What Linux calls `stack_t`."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


def use_own_stack_for_signals() -> None:
    """Handle this thread's signals on its own stack again, after a library chose another.

    OpenVINO leaves one behind that is smaller than what a core with AMX saves there, so that the
    first signal with a handler in Python, Ctrl-C among them, would be a segmentation fault.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _SS_DISABLE, 0)), None)


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals of `raise_on` wait until the block is left; wrap whatever forks in it.

    In threads other than the main one nothing needs to wait: no signal is handled there.

    Raises:
        BaseException: What `raise_on` makes of the first signal that came meanwhile.
    """
    global _is_held
    if _is_held or threading.current_thread() is not threading.main_thread():
        yield
        return
    _is_held = True
    try:
        yield
    finally:
        _is_held = False
        if _waiting:
            first = _waiting[0]
            _waiting.clear()
            raise first
