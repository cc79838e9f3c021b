"""What the exchange cost in time and memory, all processes together."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from server_side.run_store import StageRecord
from server_side.whole_files import read_json, write_atomically

COST_FILE = "exchange_cost.json"
"""Time and memory of the exchange, in the run folder."""

_SAMPLE_SECONDS = 1.0


@contextmanager
def measured_exchange(run_folder: Path) -> Iterator[None]:
    """Measure time and memory of the exchange and note them in the run folder.

    Memory is the sum over this process and all below it, sampled every second; pages that several
    of them share count several times, so it errs to the high side.
    """
    started = time.monotonic()
    peak = 0
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(_SAMPLE_SECONDS):
            peak = max(peak, tree_rss_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()
    cost = {
        "seconds": time.monotonic() - started,
        "peak_rss_bytes": max(peak, tree_rss_bytes()),
    }
    path = run_folder / COST_FILE
    write_atomically(path, json.dumps(cost))


def read_exchange_cost(run_folder: Path) -> StageRecord | None:
    """Return what the exchange of a run cost; None where an earlier start was not measured."""
    path = run_folder / COST_FILE
    if not path.exists():
        return None
    cost = read_json(path)
    return StageRecord(
        files={},
        counts={},
        seconds=float(cost["seconds"]),
        peak_rss_bytes=int(cost["peak_rss_bytes"]),
    )


def tree_rss_bytes() -> int:
    """Return the resident memory of this process and of all that it started."""
    total = 0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # It ended in between.
    return total
