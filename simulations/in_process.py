"""The exchange within this process: no network and no Flower runtime, but every byte is made.

For tests and quick looks. One client answers after the other, through the same code as anywhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from client_side.app import answer_bytes
from server_side.app import BytesChannel
from server_side.exchange.collecting import Waiting, collect
from simulations.prepare import World

_POLL_SECONDS = 1.0


def run_exchange(world: World, *, run_id: str, on_poll: Callable[[], None]) -> None:
    """Run the exchange and leave the admitted releases in the server's folder.

    Args:
        world: The parties.
        run_id: Name of the run.
        on_poll: Called again and again while the clients work, from a thread of its own.

    Raises:
        ExchangeError: Too few clients gave both proxies.
    """
    # What clients and server log belongs to the run; the console shows what matters of it.
    log = logging.FileHandler(world.server_folder.parent / "exchange.log", encoding="utf-8")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("client_side", "server_side")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(log)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        with _polled(on_poll):
            _collect(world, run_id=run_id)
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(log)
            logger.setLevel(level)
            logger.propagate = propagate
        log.close()


def _collect(world: World, *, run_id: str) -> None:
    channel = BytesChannel(
        {
            number: partial(answer_bytes, folder=client.path)
            for number, client in enumerate(world.clients)
        }
    )
    collect(
        channel,
        config=world.server,
        run_id=run_id,
        run_folder=world.server_folder,
        waiting=Waiting(num_clients=len(world.clients)),
    )


@contextmanager
def _polled(on_poll: Callable[[], None]) -> Iterator[None]:
    is_over = threading.Event()

    def poll() -> None:
        while not is_over.wait(_POLL_SECONDS):
            on_poll()

    thread = threading.Thread(target=poll, name="poll", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
