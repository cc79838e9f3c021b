"""The exchange of a simulated run: made by the chosen runtime, or taken from another run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lm.settings import save_settings
from protocol.errors import ExchangeError
from server_side.exchange.outcome import read_outcome
from simulations.config import Runtime, SimulateConfig
from simulations.console import SimulationConsole, refusals
from simulations.costs import measured_exchange
from simulations.prepare import World
from simulations.run_folder import run_id_of
from simulations.shared_exchange import share_exchange


def make_or_take_exchange(
    config: SimulateConfig,
    world: World,
    *,
    run_folder: Path,
    shared: Path | None,
    console: SimulationConsole,
) -> World:
    """Make the exchange, or take it from a run that made the same one.

    Args:
        config: The simulation.
        world: The parties as they were laid out.
        run_folder: The run.
        shared: What runs have in common; None shares nothing.
        console: Told about the clients.

    Returns:
        The parties; those of the other run where its exchange was taken.

    Raises:
        RewardDSError: The exchange failed.
    """
    outcome = read_outcome(world.server_folder)
    if outcome is not None and outcome["error"] is None:
        # An earlier start of this run went through it; its releases are stored. Where it took them
        # from another run and was killed, the settings may still name the keys of before.
        save_settings(world.server, world.server_folder / "server_node.yaml")
        return world

    def make(run_id: str) -> None:
        console.say("Exchange: every client trains its two proxies under differential privacy.")
        look = partial(console.look_at_exchange, world)
        _make_exchange(
            config, world, run_folder=run_folder, run_id=run_id, on_poll=look, say=console.say
        )

    if shared is None:
        make(run_id_of(run_folder))
        return world
    made_or_taken = share_exchange(
        config, world, run_folder=run_folder, shared=shared / "exchanges", make=make
    )
    if made_or_taken is not world:
        console.say("Exchange: shared with a run whose clients were asked for the same.")
    return made_or_taken


def _make_exchange(
    config: SimulateConfig,
    world: World,
    *,
    run_folder: Path,
    run_id: str,
    on_poll: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    try:
        with measured_exchange(run_folder):
            match config.runtime.kind:
                case Runtime.IN_PROCESS:
                    from simulations import in_process

                    in_process.run_exchange(world, run_id=run_id, on_poll=on_poll)
                case Runtime.PROCESSES:
                    from simulations import processes

                    processes.run_exchange(
                        world, run_id=run_id, runtime=config.runtime, on_poll=on_poll, say=say
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
