"""`rewardds-report`: one page and one table on a sweep.

Exit status: 0; 1 for an error, said in one line; 2 for words that are not understood.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.disk import in_words
from lm.errors import LmError
from lm.telemetry import switch_off_telemetry
from protocol.errors import RewardDSError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {in_words(error)}")


def _report(options: argparse.Namespace) -> None:
    from simulations.sweeps.page import TABLE_FILE, write_sweep_report
    from simulations.sweeps.results import read_results

    results = read_results(options.folder, audits=options.audit)
    page = write_sweep_report(results, figures=options.figures)
    print(f"Report: {page}\nTable:  {options.folder / TABLE_FILE}")
    missing = results.num_points - len(results.done)
    if missing:
        total = results.num_points
        print(f"{missing} of {total} points are not done; the page names those that were begun.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-report",
        description="Show a sweep: scores against the budget, with their spread and their price.",
    )
    parser.add_argument("folder", type=Path, metavar="SWEEP", help="folder of the sweep")
    parser.add_argument(
        "--audit",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="an audit to set beside it; those in SWEEP/audits/ always are",
    )
    parser.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="also write every plot as an SVG file there"
    )
    return parser


if __name__ == "__main__":
    main()
