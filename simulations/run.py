"""`rewardds-simulate`: one journey on one machine, from composed records to the report.

Hydra composes the settings; below this file nobody knows it. A run lives in a folder of its own,
`runs/latest` points at the newest, and a run that was cut off goes on with `resume=`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from client_side.config import ClientConfig
from lm.settings import load_settings, save_settings, schema_of, to_settings
from protocol import SOFTWARE_VERSION
from protocol.errors import ConfigurationError, ExchangeError
from server_side.config import ServerConfig
from simulations.command_line import (
    CONF,
    RUNS,
    alone_in,
    failures_held,
    new_run_folder,
    run_command_line,
)
from simulations.config import Runtime, SimulateConfig

if TYPE_CHECKING:
    from simulations.prepare import World

SETTINGS_FILE: Final = "simulate.yaml"
"""The resolved settings of a run, in its folder."""

PROVENANCE_FILE: Final = "provenance.json"
"""Command and versions of a run, in its folder."""

_LATEST: Final = "latest"
_LIBRARIES: Final = ("torch", "transformers", "peft", "randomgen", "flwr", "dp-accounting", "trl")

_STORE: Final = ConfigStore.instance()
_STORE.store(name="simulate_schema", node=schema_of(SimulateConfig))
# The nodes' own files hold one party each; `rewardds-client init` and its like write from them.
_STORE.store(name="client_node_schema", node={"client_side": schema_of(ClientConfig)})
_STORE.store(name="server_node_schema", node={"server_side": schema_of(ServerConfig)})


def main() -> None:
    """Run the command line."""
    run_command_line(
        _compose_and_run, on_interrupt="Go on with: rewardds-simulate resume=runs/latest"
    )


@hydra.main(version_base=None, config_path=str(CONF), config_name="simulate")
def _compose_and_run(values: DictConfig) -> None:
    from server_side.children import raise_on_signals

    raise_on_signals()
    with failures_held():
        config, run_folder = _settle(values)
        simulate(config, run_folder)


def simulate(config: SimulateConfig, run_folder: Path) -> None:
    """Make the whole journey.

    Args:
        config: The simulation.
        run_folder: Where it is kept; holds its settings, and perhaps an earlier start.

    Raises:
        RewardDSError: Something that the user can act on.
        LmError: Records or a model cannot be used.
    """
    # Only now: these take seconds to import, and `--help` should not.
    from lm.loading import quiet_transformers
    from server_side.collecting import load_collected
    from server_side.metrics import read_metrics
    from server_side.pipeline import run_pipeline
    from simulations.console import SimulationConsole
    from simulations.costs import read_exchange_cost
    from simulations.prepare import delta_warnings

    quiet_transformers()
    started = time.monotonic()
    shown, run_folder = run_folder, run_folder.resolve()
    run_id = run_folder.name
    with alone_in(run_folder), SimulationConsole() as console:
        console.say(f"Run folder: {shown}")
        world = _prepared(config, run_folder)
        for text in delta_warnings(world):
            console.say(f"Warning: {text}")
        console.say(
            f"{len(world.clients)} clients, {world.num_evaluation} test records "
            f"({world.num_overlapping} left out, their prompts stand in training)."
        )
        console.say("Exchange: every client trains its two proxies under differential privacy.")
        _exchange(
            config,
            world,
            run_folder=run_folder,
            on_poll=lambda: console.look_at_clients(world),
        )
        console.say("The server's job: from releases to the tuned target.")
        admitted = load_collected(world.server, run_id=run_id, run_folder=world.server_folder)
        run_pipeline(
            admitted,
            config=world.server,
            run_folder=world.server_folder,
            output_folder=run_folder,
            exchange=read_exchange_cost(run_folder),
            progress=console,
        )
        seconds = time.monotonic() - started
    console.show_results(read_metrics(run_folder / "metrics.json"), run_folder=shown)
    console.say(f"Took {seconds / 60:.1f} min in all.")


def _prepared(config: SimulateConfig, run_folder: Path) -> World:
    from simulations.prepare import WORLD_FILE, prepare_world

    is_new = not (run_folder / WORLD_FILE).exists()
    try:
        world = prepare_world(config, run_folder)
    except BaseException:
        # Nothing was trained yet: a folder of a run that never began would only be in the way.
        if is_new and (run_folder / PROVENANCE_FILE).exists():
            shutil.rmtree(run_folder, ignore_errors=True)
        raise
    _point_latest_at(run_folder)
    return world


def _exchange(
    config: SimulateConfig, world: World, *, run_folder: Path, on_poll: Callable[[], None]
) -> None:
    from server_side.outcome import read_outcome
    from simulations.console import refusals
    from simulations.costs import measured_exchange

    outcome = read_outcome(world.server_folder)
    if outcome is not None and outcome["error"] is None:
        return  # An earlier start of this run went through it; its releases are stored.
    run_id = run_folder.name
    try:
        with measured_exchange(run_folder):
            match config.runtime.kind:
                case Runtime.IN_PROCESS:
                    from simulations import in_process

                    in_process.run_exchange(world, run_id=run_id, on_poll=on_poll)
                case Runtime.PROCESSES:
                    from simulations import processes

                    processes.run_exchange(
                        world, run_id=run_id, runtime=config.runtime, on_poll=on_poll
                    )
                case Runtime.RAY:
                    from simulations import ray_engine

                    ray_engine.run_exchange(
                        world, run_id=run_id, runtime=config.runtime, on_poll=on_poll
                    )
    except ExchangeError as error:
        # In a deployment each operator reads his own reason; here one person owns them all.
        reasons = " ".join(refusals(world))
        raise ExchangeError(f"{error} {reasons}".strip()) from None
    on_poll()


def _settle(values: DictConfig) -> tuple[SimulateConfig, Path]:
    """Return what to run and where, and make the run folder with its settings."""
    config = to_settings(SimulateConfig, values)
    hydra_config = HydraConfig.get()
    if config.resume is not None:
        return _resumed(Path(config.resume), list(hydra_config.overrides.task))
    if hydra_config.mode is RunMode.MULTIRUN:
        folder = Path(hydra_config.runtime.output_dir)
    elif config.run_folder is not None:
        folder = Path(config.run_folder)
    else:
        folder = new_run_folder()
    folder.mkdir(parents=True, exist_ok=True)
    settings_file = folder / SETTINGS_FILE
    if settings_file.is_file():
        if load_settings(SimulateConfig, settings_file) != config:
            raise ConfigurationError(
                f"Expected the settings that {folder} was begun with, got others. Continue it "
                f"with resume={folder}, or name another run_folder."
            )
    else:
        part = settings_file.with_suffix(".part")
        save_settings(config, part)
        part.replace(settings_file)
        _write_provenance(folder)
    return config, folder


def _resumed(folder: Path, overrides: list[str]) -> tuple[SimulateConfig, Path]:
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ConfigurationError(
            f"Expected nothing beside resume={folder}, got {' '.join(others)}. A run goes on with "
            "the settings that it was begun with."
        )
    settings_file = folder / SETTINGS_FILE
    if not settings_file.is_file():
        raise ConfigurationError(
            f"Expected a run to resume in {folder}, found no {SETTINGS_FILE}. Name its folder."
        )
    # The link may come to point elsewhere while this runs.
    return load_settings(SimulateConfig, settings_file), folder.resolve()


def _point_latest_at(folder: Path) -> None:
    RUNS.mkdir(exist_ok=True)
    link, part = RUNS / _LATEST, RUNS / f".{_LATEST}.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(os.path.relpath(folder.resolve(), RUNS.resolve()))
    # Renaming replaces the link in one step: it always points at a run.
    part.replace(link)


def _write_provenance(folder: Path) -> None:
    facts = {
        "command": ["rewardds-simulate", *sys.argv[1:]],
        "software_version": SOFTWARE_VERSION,
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }
    (folder / PROVENANCE_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
