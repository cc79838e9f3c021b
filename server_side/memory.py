"""How much memory the process held at most, stage by stage."""

from __future__ import annotations

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
