"""One process of a tuning by several; `server_side/tuning/processes.py` starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lm.telemetry import switch_off_telemetry


def main() -> None:
    """Run this process's share of the job that the first argument names."""
    switch_off_telemetry()
    from server_side.finetuning import train_target
    from server_side.tuning.processes import note_progress, read_job

    job = read_job(Path(sys.argv[1]))
    is_first = os.environ["RANK"] == "0"
    train_target(
        job,
        on_progress=(lambda *found: note_progress(job.output_folder, *found)) if is_first else None,
    )


if __name__ == "__main__":
    main()
