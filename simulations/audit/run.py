"""`rewardds-audit`: a lower bound on ε, measured by attacking what a client releases.

Exit status: 0; 1 for an error, said in one line; 3 where a bound exceeds its claim.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from lm.disk import clear_disk_errors
from lm.model_folders import resolve_base_model
from lm.settings import schema_of, to_settings
from simulations.audit.audited_rows import RECORDS_FILE, audited_rows
from simulations.audit.config import AuditConfig
from simulations.command_line import (
    CONF,
    alone_in,
    failures_held,
    run_command_line,
)
from simulations.config import TINY_MODEL
from simulations.provenance import begin_provenance
from simulations.run_folder import begun_folder, run_id_of

if TYPE_CHECKING:
    from simulations.audit.auditing import Exchanged
    from simulations.config import SimulateConfig
    from simulations.console import SimulationConsole

SETTINGS_FILE: Final = "audit.yaml"
"""The resolved settings of an audit, in its folder."""

_BROKEN: Final = 3

ConfigStore.instance().store(name="audit_schema", node=schema_of(AuditConfig))

_found_broken: list[bool] = []


def main() -> None:
    """Run the command line."""
    run_command_line(
        _compose_and_run,
        command="audit",
        on_interrupt="Go on with the same command and run_folder=FOLDER",
    )
    if any(_found_broken):
        sys.exit(_BROKEN)


@hydra.main(version_base=None, config_path=str(CONF), config_name="audit")
def _compose_and_run(values: DictConfig) -> None:
    from server_side.children import raise_on_signals

    raise_on_signals()
    with failures_held():
        config = to_settings(AuditConfig, values)
        with begun_folder(
            # Whoever goes on names the folder that a first start made.
            replace(config, run_folder=None),
            named=None if config.run_folder is None else Path(config.run_folder),
            prefix="audit_",
            settings_file=SETTINGS_FILE,
            written=["models"],
            is_begun=_is_begun,
            note=partial(_begin, config),
        ) as folder:
            _found_broken.append(audit(config, folder))


def audit(config: AuditConfig, folder: Path) -> bool:
    """Audit, show and write the result.

    Args:
        config: The audit.
        folder: Where it is kept.

    Returns:
        Whether a bound exceeds its claim.

    Raises:
        RewardDSError: Something that the user can act on.
        LmError: Records or a model cannot be used.
    """
    from lm.loading import quiet_transformers
    from simulations.audit.auditing import run_audit
    from simulations.audit.views import PLOT_FILE, RESULT_FILE, show_result, write_result
    from simulations.console import SimulationConsole

    quiet_transformers()
    shown, folder = folder, folder.resolve()
    with alone_in(folder), clear_disk_errors(folder), SimulationConsole() as console:
        console.say(f"Audit folder: {shown}")
        console.say(
            f"{config.num_canaries} canaries, every one trained on or not by a coin, among "
            f"{config.num_records} records."
        )
        result = run_audit(
            config, folder, progress=console, run_exchange=partial(_exchange, console)
        )
        write_result(result, folder)
    show_result(result)
    console.say(f"Result: {shown / RESULT_FILE}")
    console.say(f"Plot:   {shown / PLOT_FILE}")
    return result.exceeds_claim


def _exchange(console: SimulationConsole, simulation: SimulateConfig, folder: Path) -> Exchanged:
    from server_side.exchange.collecting import load_collected
    from server_side.exchange.outcome import read_outcome
    from server_side.exchange.starts import sent_start
    from simulations.audit.auditing import Exchanged
    from simulations.in_process import run_exchange
    from simulations.prepare import prepare_world

    world, run_id = prepare_world(simulation, folder), run_id_of(folder)
    outcome = read_outcome(world.server_folder)
    if outcome is None or outcome["error"] is not None:
        console.say("The client trains its two proxies under differential privacy.")
        run_exchange(world, run_id=run_id, on_poll=lambda: console.look_at_exchange(world))
    releases = load_collected(world.server, run_id=run_id, run_folder=world.server_folder)
    sent = {
        item.proxy: sent_start(
            item.certificate.client_name, item.proxy, run_folder=world.server_folder
        )
        for item in releases
    }
    starts = {proxy: start.tensors for proxy, start in sent.items() if start is not None}
    return Exchanged(releases=releases, starts=starts)


def _begin(config: AuditConfig, folder: Path) -> None:
    # A wrong path or too few records are told before a model's libraries take seconds to load.
    if config.client_side.base_model != TINY_MODEL:
        resolve_base_model(config.client_side.base_model)
    audited_rows(config)
    from simulations.audit.laying_out import audited_simulation  # with it come a model's libraries

    # What is refused of a simulation's settings is refused here, before anything is laid out.
    audited_simulation(config, folder=folder, base_folder=Path(config.client_side.base_model))
    begin_provenance(folder, program="rewardds-audit")


def _is_begun(folder: Path) -> bool:
    return (folder / RECORDS_FILE).exists()


if __name__ == "__main__":
    main()
