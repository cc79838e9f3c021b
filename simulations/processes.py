"""The exchange as in a deployment: a SuperLink and a SuperNode for each client, on loopback.

Each node is a process with an environment and a folder of its own; Flower starts a fresh client
process for each message. Ports are free ones, and everything ends with the exchange.
"""

from __future__ import annotations

from collections.abc import Callable

from client_side.node import supernode_command, supernode_environment
from protocol.errors import ExchangeError
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
_NUM_STARTS = 3


def run_exchange(
    world: World, *, run_id: str, runtime: RuntimeConfig, on_poll: Callable[[], None]
) -> None:
    """Run the exchange and leave the admitted releases in the server's folder.

    Args:
        world: The parties.
        run_id: Name of the run.
        runtime: How long to wait for what.
        on_poll: Called at each look at the processes.

    Raises:
        ExchangeError: A process ended early, time ran out, or too few clients gave both proxies.
    """
    for attempt in range(_NUM_STARTS):
        link = Link(
            run_folder=world.server_folder.resolve(),
            host=_HOST,
            port=free_port(),
            flower_home=world.server_folder.resolve() / "flower",
        )
        with Children(world.server_folder.parent / "logs") as children:

            def look() -> None:
                children.check()
                on_poll()

            try:
                _start_link(link, children, runtime, look)
            except ExchangeError:
                # Somebody may have taken the port between finding it and using it.
                if attempt + 1 == _NUM_STARTS:
                    raise
                continue
            for client in world.clients:
                children.start(
                    client.path.name,
                    supernode_command(
                        client, superlink=link.address, runtime_port=free_port(), insecure=True
                    ),
                    environment=supernode_environment(client),
                    cwd=client.path,
                )
            waiting = Waiting(
                num_clients=len(world.clients),
                wait_seconds=runtime.start_seconds,
                deadline_seconds=runtime.deadline_seconds,
            )
            flower_run = submit(link, run_id=run_id, waiting=waiting)
            wait_for_outcome(
                link,
                flower_run,
                seconds=runtime.deadline_seconds,
                poll_seconds=runtime.poll_seconds,
                check=look,
            )
            return


def _start_link(
    link: Link, children: Children, runtime: RuntimeConfig, look: Callable[[], None]
) -> None:
    children.start("superlink", link.command, environment=link.environment(), cwd=link.run_folder)
    wait_for_port(link, seconds=runtime.start_seconds, check=look)
