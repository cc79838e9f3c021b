"""`rewardds-privacy`: questions about privacy that a person asks from the shell.

`calibrate` and `explain` compute; `ledger` reads a client's folder, `verify` stored releases. Each
party's part lies with that party and is imported only when it is asked for, so an operator's
machine needs the other party's libraries for nothing (docs/decisions/0007).

Exit status: 0; 1 for an error, said in one line; 2 for words that are not understood; 3 where a
release does not pass, with the code of the first check that failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lm.disk import in_words
from lm.errors import LmError
from lm.telemetry import switch_off_telemetry
from protocol.errors import RewardDSError
from simulations.privacy_views import (
    calibration_values,
    explanation_values,
    print_json,
    show_calibration,
    show_explanations,
    show_spending,
    show_verdicts,
    spending_values,
    verdict_values,
)

_NOT_VERIFIED: Final = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # The accounting library warns of orders that it leaves out, which only costs tightness.
    logging.getLogger("absl").setLevel(logging.ERROR)
    options = _parser().parse_args(arguments)
    try:
        status = _COMMANDS[options.command](options)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {in_words(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    if status:
        sys.exit(status)


def _calibrate(options: argparse.Namespace) -> int:
    from protocol.accounting import PlannedRun, calibrate
    from protocol.checks import check_count
    from protocol.ledger import MAX_EVENTS, ProxyKind

    check_count(at_least=1, at_most=10**12, declared_size=options.declared_size)
    check_count(
        at_least=1, at_most=options.declared_size, expected_batch_size=options.expected_batch_size
    )
    check_count(at_least=1, at_most=MAX_EVENTS, runs=options.runs)
    kinds = tuple(ProxyKind)
    planned = [
        PlannedRun(
            proxy=kinds[number % len(kinds)],
            sample_rate=options.expected_batch_size / options.declared_size,
            steps=options.steps,
        )
        for number in range(options.runs)
    ]
    found = calibrate(planned, target_epsilon=options.target_epsilon, target_delta=options.delta)
    if options.json:
        print_json(calibration_values(found, target_epsilon=options.target_epsilon))
    else:
        show_calibration(found, target_epsilon=options.target_epsilon)
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from client_side.folder import ClientFolder
    from client_side.spending import read_spending

    spending = read_spending(ClientFolder(path=options.folder))
    if options.json:
        print_json(spending_values(spending))
    else:
        show_spending(spending)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from server_side.config import ServerConfig
    from server_side.exchange.admission_terms import admission_terms
    from server_side.exchange.starts import STARTS, sent_digests
    from server_side.verifying import (
        find_releases,
        find_run_id,
        find_settings,
        verify_releases,
        with_limits,
    )

    files = find_releases(options.folder)
    config = with_limits(
        find_settings(files) or ServerConfig(),
        base_model=options.base_model,
        max_epsilon=options.max_epsilon,
        max_delta=options.max_delta,
        public_keys=options.public_key,
    )
    run_id = find_run_id(files) if options.run_id is None else options.run_id
    run_folder = files[0].parent.parent
    policy, expected_shapes = admission_terms(config, run_id=run_id)
    # Far from its run, nobody knows which starting weights were sent.
    starts = sent_digests(run_folder) if (run_folder / STARTS).is_dir() else None
    policy = replace(policy, start_digests=starts)
    verdicts = verify_releases(files, policy=policy, expected_shapes=expected_shapes)
    if options.json:
        print_json({"run_id": run_id, "releases": [verdict_values(item) for item in verdicts]})
    else:
        show_verdicts(verdicts)
    failed = [item for item in verdicts if item.code is not None]
    for item in failed:
        print(f"Error [{item.code}]: {item.file.name}: {item.message}", file=sys.stderr)
    return _NOT_VERIFIED if failed else 0


def _explain(options: argparse.Namespace) -> int:
    from simulations.pair_accounting import PUBLISHED_TASKS, PairProcedure, explain_pairs

    tasks = {"yours": options.records} if options.records is not None else PUBLISHED_TASKS
    found = {
        name: explain_pairs(
            PairProcedure(
                num_records=num_records,
                pairs_per_record=options.pairs_per_record,
                batch_size=options.batch_size,
                num_epochs=options.epochs,
                target_epsilon=options.target_epsilon,
                delta=options.delta,
            )
        )
        for name, num_records in tasks.items()
    }
    if options.json:
        print_json([explanation_values(name, item) for name, item in found.items()])
    else:
        show_explanations(found)
    return 0


_COMMANDS: Final = {
    "calibrate": _calibrate,
    "ledger": _ledger,
    "verify": _verify,
    "explain": _explain,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-privacy",
        description="Compute, look up and check what differential privacy costs.",
        epilog="Exit status: 0; 1 error; 2 wrong usage; 3 a release did not pass its checks.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    json_option = argparse.ArgumentParser(add_help=False)
    json_option.add_argument("--json", action="store_true", help="write JSON instead of a table")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=[json_option]
        )

    calibrate = add("calibrate", "find the noise with which trainings together meet a target")
    for name, text in (
        ("--declared-size", "public number of privacy units"),
        ("--expected-batch-size", "mean number of units in a step"),
        ("--steps", "steps of each training"),
    ):
        calibrate.add_argument(name, type=int, required=True, metavar="N", help=text)
    calibrate.add_argument("--runs", type=int, default=2, help="trainings that share it (2)")
    calibrate.add_argument("--target-epsilon", type=float, required=True, help="composed ε")
    calibrate.add_argument("--delta", type=float, required=True, help="δ of the whole")

    ledger = add("ledger", "show what a client's records have cost so far, and what is left")
    ledger.add_argument("folder", type=Path, help="the client's folder")

    verify = add("verify", "check stored releases offline, as admission would")
    verify.add_argument("folder", type=Path, help="folder of a run or of releases, or one release")
    verify.add_argument("--base-model", help="folder or name; else as the server's settings say")
    verify.add_argument("--run-id", help="run that they were made for; else read from beside them")
    verify.add_argument("--max-epsilon", type=float, help="largest ε; else as settings say, or 8")
    verify.add_argument("--max-delta", type=float, help="largest δ; else as settings say, or 1e-5")
    verify.add_argument(
        "--public-key", action="append", default=[], metavar="HEX", help="key that may have signed"
    )

    explain = add("explain", "show what counting each pair as a unit guarantees to a record")
    explain.add_argument("--records", type=int, help="records; else the three published tasks")
    explain.add_argument("--batch-size", type=int, default=128, help="pairs in a step (128)")
    explain.add_argument("--epochs", type=int, default=3, help="passes over all pairs (3)")
    explain.add_argument("--pairs-per-record", type=int, default=5, help="pairs of a record (5)")
    explain.add_argument("--target-epsilon", type=float, default=8.0, help="stated ε (8)")
    explain.add_argument("--delta", type=float, default=1e-5, help="δ (1e-5)")
    return parser


if __name__ == "__main__":
    main()
