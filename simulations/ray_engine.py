"""The exchange in Flower's simulation engine on Ray, for hundreds of clients on one machine.

One SuperLink runs the engine, which starts as many clients side by side as there are CPUs for. A
node knows its number only, so the folder of all clients' folders travels in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from client_side.app import FOLDERS_VARIABLE
from client_side.folder import SIMULATED_VARIABLE
from server_side.children import Children
from server_side.exchange.collecting import Waiting
from server_side.exchange.submitting import (
    Link,
    free_port,
    submit,
    wait_for_outcome,
    wait_for_port,
)
from simulations.config import RuntimeConfig
from simulations.prepare import World

_HOST = "127.0.0.1"


def run_exchange(
    world: World, *, run_id: str, runtime: RuntimeConfig, on_poll: Callable[[], None]
) -> None:
    """Run the exchange and leave the admitted releases in the server's folder.

    Args:
        world: The parties.
        run_id: Name of the run.
        runtime: CPUs of a client, and how long to wait for what.
        on_poll: Called at each look at the processes.

    Raises:
        ExchangeError: The engine ended early, time ran out, or too few clients gave both proxies.
    """
    link = Link(
        run_folder=world.server_folder.resolve(),
        host=_HOST,
        port=free_port(),
        flower_home=world.server_folder.resolve() / "flower",
    )
    clients_folder = world.clients[0].path.parent.resolve()
    environment = {
        **link.environment(),
        FOLDERS_VARIABLE: str(clients_folder),
        SIMULATED_VARIABLE: "1",
    }
    with Children(world.server_folder.parent / "logs") as children:

        def look() -> None:
            children.check()
            on_poll()

        children.start(
            "superlink",
            [*link.command, "--simulation"],
            environment=environment,
            cwd=link.run_folder,
        )
        wait_for_port(link, seconds=runtime.start_seconds, check=look)
        federation = {
            "num-supernodes": len(world.clients),
            "client-resources-num-cpus": runtime.cpus_per_client,
            "client-resources-num-gpus": 0.0,
            "init-args-num-cpus": os.cpu_count() or 1,
        }
        waiting = Waiting(
            num_clients=len(world.clients),
            wait_seconds=runtime.start_seconds,
            deadline_seconds=runtime.deadline_seconds,
        )
        flower_run = submit(link, run_id=run_id, waiting=waiting, federation=federation)
        wait_for_outcome(
            link,
            flower_run,
            seconds=runtime.deadline_seconds,
            poll_seconds=runtime.poll_seconds,
            check=look,
        )
