"""Run the exchange on a real server: link, executor and gateway, kept alive until it is over.

The link keeps its state in a database and runs the ServerApp through an executor of its own, so
that a link which is killed comes back to the same run. Where Flower gives a run up all the same,
the exchange is submitted anew: releases that were admitted are kept, a client that had answered
answers from its store, and nobody pays twice. What became of it all is told by the outcome that the
ServerApp wrote, never by an exit code of Flower's.
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lm.locks import held
from lm.logs import LogFormat, LogLevel
from protocol.errors import ConfigurationError, ExchangeError
from server_side.children import Child, Children, last_lines
from server_side.exchange.certificates import TlsFiles, check_certificate
from server_side.exchange.clients import load_clients
from server_side.exchange.collecting import Waiting
from server_side.exchange.folder import ServerFolder, write_private_file
from server_side.exchange.network import LOOPBACK, NetworkConfig, check_listening
from server_side.exchange.outcome import OUTCOME_FILE, RunLostError, outcomes_of, read_outcome
from server_side.exchange.registering import sync_nodes
from server_side.exchange.submitting import (
    Link,
    program,
    stop_unfinished,
    submit,
    wait_for_outcome,
    wait_for_port,
    write_profile,
)
from server_side.public_texts import read_public_text

_NUM_SUBMISSIONS: Final = 8
_NUM_RESTARTS: Final = 10
_RESTART_WINDOW_SECONDS: Final = 600.0
_START_SECONDS: Final = 180.0
_POLL_SECONDS: Final = 1.0
_EXECUTOR_FILE: Final = "executor.secret"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_foreign: bool = True


class _Kept:
    """Processes that are started again when they end; too many ends in a while are an error."""

    def __init__(
        self, children: Children, cwd: Path, *, entries: tuple[LogFormat, LogLevel]
    ) -> None:
        self._children = children
        self._cwd = cwd
        self._entries = entries
        self._running: dict[str, tuple[_Program, Child]] = {}
        self._ends: deque[float] = deque()

    def start(self, item: _Program) -> None:
        child = self._children.start(
            item.name,
            item.command,
            environment=item.environment,
            cwd=self._cwd,
            # The project's own processes write in the chosen form by themselves.
            entries=self._entries if item.is_foreign else None,
        )
        self._running[item.name] = (item, child)

    def look(self) -> None:
        """Start again whatever has ended.

        Raises:
            ExchangeError: Processes end too often for that to help.
        """
        for item, child in list(self._running.values()):
            code = child.process.poll()
            if code is None:
                continue
            now = time.monotonic()
            self._ends.append(now)
            while now - self._ends[0] > _RESTART_WINDOW_SECONDS:
                self._ends.popleft()
            if len(self._ends) > _NUM_RESTARTS:
                raise ExchangeError(
                    f"Expected {item.name} to keep running, but it ended with code {code} after "
                    f"{_NUM_RESTARTS} restarts. See {child.log_file}{last_lines(child.log_file)}"
                )
            _LOGGER.warning("%s ended with code %d; starting it again.", item.name, code)
            self.start(item)


def collect_from_clients(folder: ServerFolder) -> None:
    """Run the exchange of a server's folder, or go on with one that was cut off.

    Args:
        folder: The server's folder.

    Raises:
        ConfigurationError: Certificate, address or allow-list let nobody in, the settings give
            weights and none to an allowed client, or the folder is busy.
        TableError: The public text of a warm start, or the test records beside it, cannot be read.
        StageError: All of that text stands in the test set.
        ExchangeError: Too few clients gave both proxies, or the processes cannot be kept alive.
    """
    network, config = folder.load_network(), folder.load_config()
    outcome = read_outcome(folder.path)
    if outcome is not None and outcome["error"] is None:
        _LOGGER.info("The exchange of this folder is over already.%s", _missing(folder, outcome))
        return
    if config.warm_start.path is not None:
        read_public_text(config)  # what is wrong with it should not take a client to find out
    files = TlsFiles.within(folder.tls_folder)
    # The port itself may still be held by the last words of an earlier start's gateway.
    check_listening(network.listen)
    ends = check_certificate(files, host=network.host)
    wanted = max(network.num_clients, config.min_clients)
    known = load_clients(folder.clients_folder)
    if len(known) < wanted:
        raise ConfigurationError(
            f"Expected at least {wanted} allowed clients, found {len(known)}. Let them in with "
            "`rewardds-server allow-client`, or lower num_clients and min_clients."
        )
    config.synthesis.check_weights(known)
    _LOGGER.info("Certificate for %s until %s.", network.host, f"{ends:%Y-%m-%d}")
    busy = ConfigurationError(
        f"Expected one exchange at a time in {folder.path}, found another under way. Wait for it, "
        "or end it."
    )
    with held(folder.collecting_file, busy=busy), Children(folder.logs_folder) as children:
        entries = network.log_format, network.log_level
        kept = _Kept(children, folder.path.resolve(), entries=entries)
        _exchange(folder, network, files, kept, wanted=wanted)
    _LOGGER.info("The exchange is over; releases are in %s.", folder.path / "releases")


def _missing(folder: ServerFolder, outcome: Mapping[str, object]) -> str:
    """Name the allowed clients that gave less than both proxies, and how to ask them again."""
    missing = dict.fromkeys(load_clients(folder.clients_folder), "was not there")
    for client in outcomes_of(outcome):
        if client.gave_both:
            missing.pop(client.name, None)
        elif client.name in missing:
            missing[client.name] = client.told
    if not missing:
        return ""
    names = "; ".join(f"{name} ({answers})" for name, answers in missing.items())
    return (
        f" It had enough clients without {names}. To ask these as well, delete {OUTCOME_FILE} and "
        "start `collect` again, before `finetune`."
    )


def _exchange(
    folder: ServerFolder, network: NetworkConfig, files: TlsFiles, kept: _Kept, *, wanted: int
) -> None:
    link = _link(folder, network, files)
    environment = link.environment()
    secret = str(_secret(folder).resolve())
    kept.start(_Program(name="link", command=link.command, environment=environment))
    executor = [program("flower-superexec"), "--runtime-api-address", link.address]
    executor += ["--root-certificates", str(files.authority.resolve())]
    executor += ["--superexec-auth-secret-file", secret]
    kept.start(_Program(name="executor", command=executor, environment=environment))
    gateway = [sys.executable, "-m", "server_side.exchange.gateway", str(folder.path.resolve())]
    kept.start(_Program(name="gateway", command=gateway, environment=environment, is_foreign=False))
    waiting = Waiting(
        num_clients=wanted,
        wait_seconds=network.wait_seconds,
        hello_seconds=network.hello_seconds,
        deadline_seconds=network.deadline_seconds,
    )
    for attempt in range(_NUM_SUBMISSIONS):
        try:
            wait_for_port(link, seconds=_START_SECONDS, check=kept.look)
            write_profile(link)
            sync_nodes(link, load_clients(folder.clients_folder))
            # An exchange of an earlier start or try must not go on beside this one.
            stop_unfinished(link)
            flower_run = submit(link, run_id=folder.run_id(), waiting=waiting)
            _LOGGER.info("Open at %s; waiting for %d clients.", network.address, wanted)
            wait_for_outcome(
                link,
                flower_run,
                # Both releases may each take as long as the deadline allows.
                seconds=waiting.wait_seconds
                + waiting.hello_seconds
                + 2 * waiting.deadline_seconds
                + _START_SECONDS,
                poll_seconds=_POLL_SECONDS,
                check=kept.look,
            )
        except RunLostError as error:
            if attempt + 1 == _NUM_SUBMISSIONS:
                raise
            _LOGGER.warning("Submitting the exchange again: %s", error)
        else:
            return


def _link(folder: ServerFolder, network: NetworkConfig, files: TlsFiles) -> Link:
    home = folder.flower_home.resolve()
    return Link(
        run_folder=folder.path.resolve(),
        # Never anything but loopback: whoever reaches this port starts runs and adds nodes.
        host=LOOPBACK,
        port=network.local_port,
        flower_home=home,
        tls=files,
        options=(
            "--enable-supernode-auth",
            "--database",
            str(home / "link.db"),
            "--isolation",
            "process",
            "--superexec-auth-secret-file",
            str(_secret(folder).resolve()),
            "--disable-runtime-dependency-installation",
        ),
    )


def _secret(folder: ServerFolder) -> Path:
    """Return the file by which the link knows its executor; made once."""
    file = folder.flower_home / _EXECUTOR_FILE
    if not file.is_file():
        folder.flower_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private_file(file, secrets.token_bytes(32))
    return file
