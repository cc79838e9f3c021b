"""How much memory a process held at most, and what in it is never searched for garbage."""

from __future__ import annotations

import ctypes
import gc
import logging
import resource
import sys
from pathlib import Path

_LOGGER = logging.getLogger(__name__)


def reset_peak_rss() -> None:
    """Set the peak back to what is held now; where that cannot be done, it counts from the start.

    Linux only: 5 is the kernel's word for it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        _LOGGER.debug("The peak of memory cannot be reset here.")


def peak_rss_bytes() -> int:
    """Return the most memory that the process held since the last reset, children left out."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def give_back_freed() -> None:
    """Have the system get back what was freed, where the C library can be asked to (glibc).

    It keeps blocks for later use: of models of 135M parameters 2 GB, which a sweep's processes on
    one machine would hold beside their next model.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def set_aside_imports() -> None:
    """Keep what is alive now, which is mostly libraries, out of the garbage collector's sight.

    Before a job's first model only. Each model that goes has the collector search all objects, and
    imports leave more than 400,000: a quarter of the smoke run's processor time went there. What
    is set aside and forms a cycle is never freed, so a model must not be among it.
    """
    gc.collect()
    gc.freeze()
