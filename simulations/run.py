"""`rewardds-simulate`: one journey on one machine, from composed records to the report.

Hydra composes the settings; below this file nobody knows it. A run lives in a folder of its own,
`runs/latest` points at the newest, and a run that was cut off goes on with `resume=`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from client_side.config import ClientConfig
from lm.disk import clear_disk_errors
from lm.leaving import dying_with_parent
from lm.settings import load_settings, schema_of
from protocol.errors import ConfigurationError
from server_side.config import ServerConfig
from simulations.beforehand import require_beforehand, require_no_selection, settings_of
from simulations.command_line import (
    CONF,
    alone_in,
    failures_held,
    hold_failure,
    one_line,
    point_latest_at,
    quoted,
    run_command_line,
)
from simulations.config import SimulateConfig, TunedOn
from simulations.provenance import begin_provenance
from simulations.run_folder import SETTINGS_FILE, begun_folder
from simulations.sweeps.points import (
    SHARED_FOLDER,
    SweepFailedError,
    read_point,
    read_sweep,
    run_point,
    seconds_left,
)

if TYPE_CHECKING:
    from server_side.notes import SelectionPrice
    from server_side.shared_stages import SharedStages
    from simulations.console import SimulationConsole
    from simulations.prepare import World

# All that a start writes before its parties are laid out, beside settings and provenance.
_WRITTEN: Final = ("clients", "server", "models", "world.part")

_command_pid: int | None = None
"""Process of the command itself; a launcher may have others do its points."""

_STORE: Final = ConfigStore.instance()
_STORE.store(name="simulate_schema", node=schema_of(SimulateConfig))
# One party each: what `rewardds-client init` and its like write, from the schemas' own defaults.
_STORE.store(name="client_node_schema", node={"client_side": schema_of(ClientConfig)})
_STORE.store(name="server_node_schema", node={"server_side": schema_of(ServerConfig)})


def main() -> None:
    """Run the command line."""
    from server_side.children import raise_on_signals

    global _command_pid
    _command_pid = os.getpid()
    sys.argv = [sys.argv[0], *sweep_resumed(sys.argv[1:])]
    raise_on_signals()
    run_command_line(
        _compose_and_run,
        command="simulate",
        on_interrupt="Go on with: rewardds-simulate resume=runs/latest",
    )


@hydra.main(version_base=None, config_path=str(CONF), config_name="simulate")
def _compose_and_run(values: DictConfig) -> None:
    from server_side.children import raise_on_signals

    if os.getpid() != _command_pid:
        raise_on_signals()
        # A launcher's process catches what a signal raises and waits for more points, for ever if
        # nobody is left to send some; a point that was cut off goes on from its last whole stage.
        dying_with_parent(signal.SIGKILL)()
    with failures_held():
        hydra_config = HydraConfig.get()
        if hydra_config.mode is RunMode.MULTIRUN:
            _do_point(values)
            return
        with _settled(values) as (config, run_folder):
            if config.selection.candidates:
                _select(config, run_folder)
            elif (point := read_point(run_folder)) is None:
                simulate(config, run_folder)
            elif error := run_point(
                run_folder,
                point.overrides,
                partial(simulate, config, run_folder),
                describe_error=one_line,
            ):
                raise SweepFailedError(error)


def _select(config: SimulateConfig, folder: Path) -> None:
    from simulations.sweeps.hidden_run import simulate_in_child
    from simulations.sweeps.selection import HIDDEN_FOLDER, SELECTION_FILE, select_privately

    print(
        f"Selecting among {len(config.selection.candidates)} settings by a random number of runs, "
        f"{config.selection.mean_runs:g} in the mean. What they do stays hidden until the end.",
        flush=True,
    )
    point_latest_at(folder)
    with alone_in(folder):
        log = folder / HIDDEN_FOLDER / "log"
        selected = select_privately(
            config, folder, simulate=partial(simulate_in_child, log_folder=log)
        )
    print(f"Selected: {_short(selected)}\nPrice:    {_short(folder / SELECTION_FILE)}")


def _do_point(values: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    sweep, left = read_sweep(folder.parent), seconds_left(folder.parent)
    total = "" if sweep is None or sweep.num_points is None else f" of {sweep.num_points}"
    time_left = "" if left is None else f", about {left / 60:.0f} min left"
    print(f"Point {hydra_config.job.num + 1}{total}{time_left}: {' '.join(overrides)}", flush=True)

    def do() -> None:
        with _settled(values) as (config, run_folder):
            require_no_selection(config)
            simulate(config, run_folder)

    try:
        error = run_point(folder, overrides, do, describe_error=one_line)
    except ConfigurationError as caught:
        error = str(caught)
        hold_failure(caught)
    if error:
        print(f"Error: {error}", file=sys.stderr, flush=True)


def sweep_resumed(arguments: Sequence[str]) -> list[str]:
    """Return the command that goes on with a sweep where `resume=SWEEP` is what is said.

    Args:
        arguments: Words after the program's name. How points are launched may be said anew.

    Returns:
        Words that make Hydra compose the same points in the same folder; all other words as they
        are.
    """
    first, *anew = arguments or [""]
    name, _, folder = first.partition("=")
    is_launching = all(word.startswith(("hydra/launcher=", "hydra.launcher.")) for word in anew)
    sweep = read_sweep(Path(folder)) if name == "resume" and is_launching else None
    if sweep is None:
        return list(arguments)
    names = {word.partition("=")[0] for word in anew}
    if "hydra/launcher" in names:  # settings of another launcher are none of this one
        names |= {word.partition("=")[0] for word in sweep.overrides if "hydra.launcher." in word}
    kept = [word for word in sweep.overrides if word.partition("=")[0] not in names]
    return ["--multirun", *kept, *anew, f"hydra.sweep.dir={quoted(str(Path(folder).resolve()))}"]


def simulate(
    config: SimulateConfig, run_folder: Path, *, selection: SelectionPrice | None = None
) -> None:
    """Make the whole journey.

    Args:
        config: The simulation.
        run_folder: Where it is kept; holds its settings, and perhaps an earlier start.
        selection: Price at which the run stands to be selected; such a run prints nothing, shares
            nothing and leaves `runs/latest` alone.

    Raises:
        RewardDSError: Something that the user can act on.
        LmError: Records or a model cannot be used.
    """
    # Only now: they take time to import, and `--help` should not.
    from server_side.provenance import finish_provenance, later_sources
    from server_side.shared_stages import SharedStages
    from simulations.console import SimulationConsole
    from simulations.prepare import delta_warnings
    from simulations.provenance import note_price

    started = time.monotonic()
    shown, run_folder = run_folder, run_folder.resolve()
    # Privacy: runs that are selected from have noise of their own each, whoever else runs.
    shared = None if selection else _shared_folder(config, run_folder)
    stages = SharedStages(shared / "stages") if shared else None
    console = SimulationConsole(prefix=_prefix(), is_silent=selection is not None)
    with alone_in(run_folder), clear_disk_errors(run_folder), console:
        console.say(f"Run folder: {_short(shown)}")
        world = _prepared(config, run_folder, is_selected_from=selection is not None)
        # Only now: these take seconds, and a wrong path should be told at once.
        from lm.loading import quiet_transformers
        from server_side.measuring.metrics import read_metrics
        from simulations.private_tuning import price_of_private_arm, run_private_arm

        quiet_transformers()
        for text in [*later_sources(run_folder), *delta_warnings(world)]:
            console.say(f"Warning: {text}")
        console.say(
            f"{_clients(world.num_records)}; {world.num_evaluation:,} test records "
            f"({world.num_overlapping:,} left out, their prompts stand in training)."
        )
        if config.tuned_on is TunedOn.SYNTHETIC:
            _run_both_parties(
                config,
                world,
                run_folder=run_folder,
                shared=shared,
                stages=stages,
                console=console,
                selection=selection,
            )
        else:
            console.say(
                f"Arm {config.arm}: the target is tuned on the private records themselves. It "
                "exists in simulation only, to compare with; nothing of it may be handed out."
            )
            # Before any record is read, as a client reserves its budget before it trains.
            note_price(run_folder, config, world, (), ledgers=price_of_private_arm(config, world))
            run_private_arm(config, world, run_folder=run_folder, progress=console, shared=stages)
        finish_provenance(run_folder)
        seconds = time.monotonic() - started
    console.show_results(read_metrics(run_folder / "metrics.json"), run_folder=_short(shown))
    console.say(f"Took {seconds / 60:.1f} min in all.")


def _run_both_parties(
    config: SimulateConfig,
    world: World,
    *,
    run_folder: Path,
    shared: Path | None,
    stages: SharedStages | None,
    console: SimulationConsole,
    selection: SelectionPrice | None,
) -> None:
    from server_side.exchange.collecting import load_collected
    from server_side.exchange.outcome import clients_without_releases, read_outcome
    from server_side.memory import set_aside_imports
    from server_side.pipeline import run_pipeline
    from simulations.annotating import annotate_run
    from simulations.costs import read_exchange_cost
    from simulations.exchanging import make_or_take_exchange
    from simulations.provenance import note_price

    world = make_or_take_exchange(
        config, world, run_folder=run_folder, shared=shared, console=console
    )
    for client in clients_without_releases(world.server_folder):
        console.say(f"{client.name or 'A nameless node'} takes no part: {client.told}.")
    console.say("The server's job: from releases to the tuned target.")
    outcome = read_outcome(world.server_folder)
    assert outcome is not None, "the exchange is over"
    admitted = load_collected(
        world.server, run_id=str(outcome["run_id"]), run_folder=world.server_folder
    )
    note_price(run_folder, config, world, admitted)
    set_aside_imports()
    run_pipeline(
        admitted,
        config=world.server,
        run_folder=world.server_folder,
        output_folder=run_folder,
        exchange=read_exchange_cost(run_folder),
        progress=console,
        shared=stages,
        annotate=partial(
            annotate_run, config=config, world=world, releases=admitted, selection=selection
        ),
    )


def _prepared(config: SimulateConfig, run_folder: Path, *, is_selected_from: bool) -> World:
    from simulations.prepare import prepare_world

    world = prepare_world(config, run_folder, is_selected_from=is_selected_from)
    # A point of a sweep is part of what is newest, not that itself.
    if not is_selected_from and read_sweep(run_folder.parent) is None:
        point_latest_at(run_folder)
    return world


def _shared_folder(config: SimulateConfig, run_folder: Path) -> Path | None:
    if config.shared_folder is not None:
        return Path(config.shared_folder).resolve()
    is_point = read_sweep(run_folder.parent) is not None
    return run_folder.parent / SHARED_FOLDER if is_point else None


def _clients(num_records: Sequence[int]) -> str:
    fewest, most = min(num_records), max(num_records)
    number = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    count = "1 client" if len(num_records) == 1 else f"{len(num_records)} clients"
    return f"{count} with {number} records{' each' if len(num_records) > 1 else ''}"


def _prefix() -> str:
    """Tell lines of points apart where a launcher runs several of them side by side."""
    if not HydraConfig.initialized():
        return ""
    hydra_config = HydraConfig.get()
    is_alone = hydra_config.runtime.choices.get("hydra/launcher") == "basic"
    is_point = hydra_config.mode is RunMode.MULTIRUN
    return f"[{hydra_config.job.num + 1}] " if is_point and not is_alone else ""


def _short(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


@contextlib.contextmanager
def _settled(values: DictConfig) -> Iterator[tuple[SimulateConfig, Path]]:
    """Give what to run and where; a run that fails before it has begun leaves nothing there."""
    hydra_config = HydraConfig.get()
    config = settings_of(values)
    is_point = hydra_config.mode is RunMode.MULTIRUN
    overrides = list(hydra_config.overrides.task)
    named = None if config.run_folder is None else Path(config.run_folder)
    if config.resume is not None:
        config, named = _resumed(Path(config.resume), overrides)
    elif is_point:
        named = Path(hydra_config.runtime.output_dir)
    if named is None or not _is_begun(config, named):
        require_beforehand(config)
    with begun_folder(
        config,
        named=named,
        written=_WRITTEN,
        is_begun=partial(_is_begun, config),
        note=partial(begin_provenance, overrides=overrides if is_point else None),
    ) as folder:
        yield config, folder


def _is_begun(config: SimulateConfig, folder: Path) -> bool:
    from simulations.prepare import WORLD_FILE

    # A selection that was cut off must go on with the runs that it drew.
    return bool(config.selection.candidates) or (folder / WORLD_FILE).exists()


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


if __name__ == "__main__":
    main()
