"""`rewardds-server`: make a server's folder, collect releases from clients, and do the long work.

`collect` starts a SuperLink, runs the exchange and ends; `finetune` turns what was admitted into a
tuned target and a report, and goes on where it was cut off; `run` does both. One folder is one run.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lm.errors import LmError
from lm.settings import load_settings, save_settings
from lm.telemetry import switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError
from server_side.config import ServerConfig

_RUN_ID_FILE: Final = "run_id"
_SETTINGS_FILE: Final = "server_node.yaml"
_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _LOGGER.setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "init":
                _init(options.folder)
            case "collect":
                _collect(options)
            case "finetune":
                _finetune(options.folder)
            case "run":
                _collect(options)
                _finetune(options.folder)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. Start the same command again to go on.")


class LoggedProgress:
    """Tells the log when a stage begins and ends."""

    def start(self, stage: str) -> None:
        """Do nothing: a stage that is whole already would only be named twice."""

    def advance(self, done: int, total: int) -> None:
        """Do nothing: a log wants no bars."""

    def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
        """Name the stage and its time."""
        how = "from an earlier start" if was_whole else f"{seconds:.1f} s"
        _LOGGER.info("%s: %s", stage, how)


def _init(folder: Path) -> None:
    settings_file = folder / _SETTINGS_FILE
    if settings_file.exists():
        raise ConfigurationError(
            f"Expected a new folder, found {settings_file}. Name another folder, or edit it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_settings(ServerConfig(), settings_file)
    _LOGGER.info("Made %s. Now name models and test records in %s.", folder, settings_file)


def _collect(options: argparse.Namespace) -> None:
    from server_side.children import Children, raise_on_signals
    from server_side.collecting import Waiting
    from server_side.outcome import read_outcome
    from server_side.submitting import Link, TlsFiles, submit, wait_for_outcome, wait_for_port

    folder: Path = options.folder.resolve()
    config = load_settings(ServerConfig, folder / _SETTINGS_FILE)
    outcome = read_outcome(folder)
    if outcome is not None and outcome["error"] is None:
        _LOGGER.info("The exchange of this folder is over already.")
        return
    files = (options.tls_authority, options.tls_certificate, options.tls_key)
    if None in files and not options.insecure:
        raise ConfigurationError(
            "Expected --tls-authority, --tls-certificate and --tls-key, got less. Name all "
            "three, or pass --insecure on loopback."
        )
    raise_on_signals()
    link = Link(
        run_folder=folder,
        host=options.host,
        port=options.port,
        flower_home=folder / "flower",
        tls=None
        if options.insecure
        else TlsFiles(authority=files[0], certificate=files[1], key=files[2]),
    )
    waiting = Waiting(
        num_clients=options.num_clients or config.min_clients,
        wait_seconds=options.wait_seconds,
        deadline_seconds=options.deadline_seconds,
    )
    with Children(folder / "logs") as children:
        children.start(
            "superlink", link.command, environment=link.environment(), cwd=link.run_folder
        )
        wait_for_port(link, seconds=60.0, check=children.check)
        _LOGGER.info("SuperLink at %s; waiting for %d clients.", link.address, waiting.num_clients)
        flower_run = submit(link, run_id=_run_id(folder), waiting=waiting)
        wait_for_outcome(
            link,
            flower_run,
            # Hello, generator and reward may each take as long as the deadline allows.
            seconds=waiting.wait_seconds + 3 * waiting.deadline_seconds,
            poll_seconds=1.0,
            check=children.check,
        )
    _LOGGER.info("The exchange is over; releases are in %s.", folder / "releases")


def _finetune(folder: Path) -> None:
    # Only now: these take seconds to import, and `--help` should not.
    from server_side.collecting import load_collected
    from server_side.pipeline import run_pipeline

    folder = folder.resolve()
    config = load_settings(ServerConfig, folder / _SETTINGS_FILE)
    admitted = load_collected(config, run_id=_run_id(folder), run_folder=folder)
    run_pipeline(admitted, config=config, run_folder=folder, progress=LoggedProgress())
    _LOGGER.info("Report: %s", folder / "report.html")


def _run_id(folder: Path) -> str:
    """Return the run's name, which releases are bound to; made once for a folder."""
    file = folder / _RUN_ID_FILE
    if not file.is_file():
        name = f"{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        safe = "".join(character if character.isalnum() else "-" for character in name)
        file.write_text(safe[-60:].lstrip("-"), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-server", description="Collect releases and tune a target model on them."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make a folder with settings")
    init.add_argument("folder", type=Path, help="folder to make")
    finetune = commands.add_parser("finetune", help="the long work, over admitted releases")
    finetune.add_argument("folder", type=Path, help="the run's folder")
    for name, text in (("collect", "the exchange with clients"), ("run", "collect, then finetune")):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path, help="the run's folder")
        command.add_argument("--host", default="127.0.0.1", help="address to listen on")
        command.add_argument("--port", type=int, default=8000, help="port to listen on")
        command.add_argument("--tls-authority", type=Path, help="certificate of the authority")
        command.add_argument("--tls-certificate", type=Path, help="the server's certificate")
        command.add_argument("--tls-key", type=Path, help="the server's private key")
        command.add_argument("--insecure", action="store_true", help="no TLS; loopback only")
        command.add_argument("--num-clients", type=int, default=0, help="clients to wait for")
        command.add_argument("--wait-seconds", type=float, default=600.0, help="how long")
        command.add_argument("--deadline-seconds", type=float, default=43_200.0, help="per answer")
    return parser


if __name__ == "__main__":
    main()
