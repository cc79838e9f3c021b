from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.costs import measured_exchange, read_exchange_cost, tree_rss_bytes


def test_the_cost_of_an_exchange_is_noted_in_the_run_folder(tmp_path: Path) -> None:
    with measured_exchange(tmp_path):
        time.sleep(0.01)

    cost = read_exchange_cost(tmp_path)

    assert cost is not None
    assert cost.seconds >= 0.01
    assert cost.peak_rss_bytes > 1_000_000


def test_a_failed_exchange_notes_nothing(tmp_path: Path) -> None:
    """Its time would be taken for that of the one that went through."""

    def fail() -> None:
        with measured_exchange(tmp_path):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert read_exchange_cost(tmp_path) is None


def test_memory_of_children_counts() -> None:
    hold = "data = b'x' * 100_000_000; print('held', flush=True); input()"
    alone = tree_rss_bytes()

    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        together = tree_rss_bytes()
        child.communicate(b"\n")

    assert together > alone + 80_000_000
