"""One run of a private selection, in a process of its own that shows nothing.

Memory, counters and process-wide names grow from run to run within a process; they stand in what a
run writes, and would tell how many runs came before it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from lm.errors import LmError
from lm.settings import load_settings
from lm.telemetry import switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError, StageError
from server_side.children import Children, last_lines, raise_on_signals
from server_side.notes import SelectionPrice
from server_side.whole_files import read_json, write_atomically
from simulations.command_line import one_line
from simulations.config import SimulateConfig, TunedOn
from simulations.run_folder import SETTINGS_FILE

_LOOK_SECONDS = 0.2
_PRICE_FILE: Final = "price.json"


def require_selectable(candidate: SimulateConfig) -> None:
    """Check that the price of private selection holds for runs with these settings.

    Args:
        candidate: Settings to select among.

    Raises:
        ConfigurationError: A run would read records in a way that the price does not cover.
    """
    # Privacy: the price is computed from the events of the two proxies; no other arm has them.
    if candidate.tuned_on is not TunedOn.SYNTHETIC:
        raise ConfigurationError(
            "Expected candidates with tuned_on=synthetic, got "
            f"{candidate.tuned_on.value}: the price of a selection is that of released proxies. "
            "Choose an arm that tunes on synthetic data."
        )
    # Privacy: the theorem is about runs with fresh noise each; a seed gives all of them the same.
    if candidate.client_side.budget.noise_seed is not None:
        raise ConfigurationError(
            "Expected client_side.budget.noise_seed=null in a selection, got a seed. Remove it."
        )
    if not candidate.has_own_records:
        return  # nobody's
    are_own = candidate.main_records_are_own
    # Privacy: the score that selects must read no record; a test set split off from them does.
    if are_own and candidate.server_side.evaluation.path is None:
        raise ConfigurationError(
            "Expected server_side.evaluation.path in a selection on your own records, got null: "
            "the score that selects may not read them. Name a public test file."
        )
    # Privacy: the certificate states the size, and no price covers one that was counted.
    if candidate.declare_sizes:
        raise ConfigurationError(
            "Expected declare_sizes=false in a selection on your own records, got true: a size "
            "that is counted depends on them. Set it, and client_side.records.declared_size to a "
            "public number."
        )
    # Privacy: with one record more in the file, many others would lie with another client.
    if are_own and candidate.num_sharing > 1:
        raise ConfigurationError(
            "Expected num_clients=1 in a selection on your own records, or a file for each client "
            f"in domains, got {candidate.num_clients} clients: where a record lies would depend "
            "on the others. Set num_clients=1 and server_side.min_clients=1."
        )


def write_price(price: SelectionPrice, folder: Path) -> None:
    """Keep the price of a selection beside its runs, which state it.

    Args:
        price: The price.
        folder: Where the runs lie.
    """
    write_atomically(folder / _PRICE_FILE, json.dumps(dataclasses.asdict(price)))


def read_price(folder: Path) -> SelectionPrice:
    """Read what `write_price` kept.

    Args:
        folder: Where the runs lie.

    Returns:
        ε and δ of the whole selection, whichever run is selected.
    """
    return SelectionPrice(**read_json(folder / _PRICE_FILE))


def simulate_in_child(run_folder: Path, *, log_folder: Path) -> None:
    """Make or go on with one run in a process that ends when this one does.

    Args:
        run_folder: The run, with its settings.
        log_folder: Where what it says goes.

    Raises:
        StageError: The run failed; the message is its own.
    """
    with Children(log_folder) as children:
        child = children.start(
            "run",
            [sys.executable, "-m", "simulations.sweeps.hidden_run", str(run_folder)],
            environment=os.environ,
            cwd=Path.cwd(),
        )
        while (code := child.process.poll()) is None:
            time.sleep(_LOOK_SECONDS)
    if code != 0:
        said = last_lines(child.log_file, num_lines=1).replace("\n  | ", " ")
        raise StageError(
            f"Expected a run of the selection to end well, but it ended with code {code}{said}"
        )


def main() -> None:
    """Make the run whose folder is the only argument."""
    from simulations.run import simulate

    switch_off_telemetry()
    raise_on_signals()
    folder = Path(sys.argv[1])
    try:
        config = load_settings(SimulateConfig, folder / SETTINGS_FILE)
        simulate(config, folder, selection=read_price(folder.parent))
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
