"""Signals that end a process, turned into exceptions, so that `with` blocks are left in order.

Around a fork they wait: Python drops whatever is raised inside its hooks of `fork`, where a signal
that comes in the middle of it is handled first, and the process would go on as if nobody had asked.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

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
