"""What a job sets aside is never searched again, and holds no garbage."""

from __future__ import annotations

import gc
import weakref

from server_side.memory import set_aside_imports


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
