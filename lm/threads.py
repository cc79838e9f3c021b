"""Bound the CPU threads of a piece of work, and give them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(num_threads: int | None) -> Iterator[None]:
    """Let torch use so many threads within the block; None leaves them as they are."""
    import torch  # only now: who merely imports this module may have no need of it

    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
