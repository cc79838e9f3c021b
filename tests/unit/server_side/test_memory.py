"""A job holds what it needs: what it freed goes back, and what stays is not searched again."""

from __future__ import annotations

import ctypes
import gc
import weakref

import psutil
import pytest

from server_side.memory import give_back_freed, set_aside_imports


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_before_is_set_aside_but_for_its_garbage() -> None:
    kept, garbage = Node(), weakref.ref(Node())
    gc.disable()  # else it may be gone already

    try:
        set_aside_imports()
    finally:
        gc.enable()

    assert garbage() is None
    assert not any(item is kept for item in gc.get_objects())
    later = Node()
    assert any(item is later for item in gc.get_objects())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="asks glibc alone")
def test_what_was_freed_goes_back_to_the_system() -> None:
    blocks = [bytes(2**16) for _ in range(4096)]
    last = bytes(2**16)  # on top of the heap, so that the rest is not given back by itself
    del blocks
    held = psutil.Process().memory_info().rss

    give_back_freed()

    assert held - psutil.Process().memory_info().rss > 2**27
    assert len(last) == 2**16
