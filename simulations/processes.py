"""The exchange as in a deployment: a SuperLink and a SuperNode for each client, on loopback.

Each node is a process with an environment and a folder of its own; Flower starts a fresh client
process for each message. Ports are free ones, and everything ends with the exchange.

Where a client's node ends, all of it is ended and begun again, as a run that is resumed: a link
without TLS knows a node by a key that lives as long as the node's process, so that one which comes
back alone is a stranger, and the exchange would wait for its old number. Admitted releases are
kept, a client that had answered answers from its store, and a training goes on from its last whole
step; nobody pays twice. A client whose node ends again and again is given up, and the exchange goes
on without it as long as `min_clients` are left.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from client_side.folder import SIMULATED_VARIABLE, ClientFolder
from client_side.node import supernode_command, supernode_environment
from protocol.errors import ExchangeError
from server_side.children import Child, Children
from server_side.exchange.collecting import Waiting, load_collected
from server_side.exchange.outcome import (
    ADMITTED,
    ClientOutcome,
    outcomes_of,
    read_outcome,
    write_outcome,
)
from server_side.exchange.submitting import (
    Link,
    free_port,
    submit,
    wait_for_outcome,
    wait_for_port,
)
from simulations.config import RuntimeConfig
from simulations.prepare import World

_HOST: Final = "127.0.0.1"
_LINK: Final = "superlink"
_NUM_STARTS: Final = 3
_NUM_RESTARTS: Final = 3
_PAUSE_SECONDS: Final = 3.0


class _NodesEndedError(ExchangeError):
    """Nodes of clients ended before the exchange was over; it can go on."""

    def __init__(self, nodes: Sequence[Child]) -> None:
        names = ", ".join(node.name for node in nodes)
        super().__init__(f"Expected all nodes to run until the exchange is over, found {names}.")
        self.nodes = tuple(nodes)


def run_exchange(
    world: World,
    *,
    run_id: str,
    runtime: RuntimeConfig,
    on_poll: Callable[[], None],
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run the exchange and leave the admitted releases in the server's folder.

    Args:
        world: The parties.
        run_id: Name of the run.
        runtime: How long to wait for what.
        on_poll: Called at each look at the processes.
        say: Told in a sentence which nodes are started again, and who is given up.

    Raises:
        ExchangeError: The link ended early, nodes ended so often that fewer than `min_clients` are
            left, time ran out, or too few clients gave both proxies.
    """
    give_up_at = time.monotonic() + runtime.deadline_seconds
    num_ends: Counter[str] = Counter()
    clients = list(world.clients)
    while True:
        left = replace(runtime, deadline_seconds=max(1.0, give_up_at - time.monotonic()))
        try:
            _run_once(world, clients, run_id=run_id, runtime=left, on_poll=on_poll)
        except _NodesEndedError as ended:
            num_ends.update(node.name for node in ended.nodes)
            clients = _without_given_up(world, ended.nodes, num_ends=num_ends)
            for node in ended.nodes:
                say(_told(node, num_ends=num_ends[node.name]))
            time.sleep(_PAUSE_SECONDS)
        else:
            break
    _note_given_up(world, {client.path.name for client in clients}, run_id=run_id)


def _without_given_up(
    world: World, ended: Sequence[Child], *, num_ends: Counter[str]
) -> list[ClientFolder]:
    kept = [client for client in world.clients if num_ends[client.path.name] <= _NUM_RESTARTS]
    if len(kept) < world.server.min_clients:
        last = next(node for node in ended if num_ends[node.name] > _NUM_RESTARTS)
        raise ExchangeError(
            f"Expected nodes of at least {world.server.min_clients} clients "
            f"(server_side.min_clients) to run until the exchange is over, found {len(kept)}: "
            f"after {_NUM_RESTARTS} restarts that of {last.name} {last.how_it_ended}"
        )
    return kept


def _told(node: Child, *, num_ends: int) -> str:
    how = f"The node of {node.name} ended with code {node.process.returncode}"
    if num_ends > _NUM_RESTARTS:
        return (
            f"{how} after {_NUM_RESTARTS} restarts; the exchange goes on without it. "
            f"See {node.log_file}."
        )
    return (
        f"{how}; starting it again ({num_ends} of {_NUM_RESTARTS}). All clients go on from their "
        "last whole step."
    )


def _note_given_up(world: World, kept: set[str], *, run_id: str) -> None:
    """Add to the outcome the clients that were given up: no try that they missed knows of them."""
    given_up = [client.path.name for client in world.clients if client.path.name not in kept]
    if not given_up:
        return
    admitted = load_collected(world.server, run_id=run_id, run_folder=world.server_folder)
    outcome = read_outcome(world.server_folder)
    assert outcome is not None, "the exchange is over"
    added = []
    for name in given_up:
        # What it gave before counts like anybody's.
        own = [release for release in admitted if release.client_name == name]
        answers = {release.proxy.value: ADMITTED for release in own}
        added.append(
            ClientOutcome(
                name=name,
                answers={**answers, "node": "ended again and again"},
                epsilon=max((release.epsilon for release in own), default=None),
            )
        )
    write_outcome(
        world.server_folder,
        run_id=run_id,
        error=None,
        outcomes=[*outcomes_of(outcome), *added],
        flower_run=str(outcome["flower_run"]),
    )


def _run_once(
    world: World,
    clients: Sequence[ClientFolder],
    *,
    run_id: str,
    runtime: RuntimeConfig,
    on_poll: Callable[[], None],
) -> None:
    for attempt in range(_NUM_STARTS):
        link = Link(
            run_folder=world.server_folder.resolve(),
            host=_HOST,
            port=free_port(),
            flower_home=world.server_folder.resolve() / "flower",
        )
        with Children(world.server_folder.parent / "logs") as children:

            def look() -> None:
                ended = children.ended()
                # The link was started first. Without it there is nothing to go on with.
                if ended and ended[0].name != _LINK:
                    raise _NodesEndedError(ended)
                children.check()
                on_poll()

            try:
                _start_link(link, children, runtime, look)
            except ExchangeError:
                # Somebody may have taken the port between finding it and using it.
                if attempt + 1 == _NUM_STARTS:
                    raise
                continue
            for client in clients:
                children.start(
                    client.path.name,
                    supernode_command(
                        client, superlink=link.address, runtime_port=free_port(), insecure=True
                    ),
                    environment={**supernode_environment(client), SIMULATED_VARIABLE: "1"},
                    cwd=client.path,
                )
            waiting = Waiting(
                num_clients=len(clients),
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
    children.start(_LINK, link.command, environment=link.environment(), cwd=link.run_folder)
    wait_for_port(link, seconds=runtime.start_seconds, check=look)
