"""`rewardds-client`: make a client's folder, and start a node that answers from it.

The node is Flower's SuperNode. It connects out to the server's SuperLink and needs no open port
towards anybody else. Which folder it answers from is in its own node configuration, so nothing
that the server sends can point it elsewhere.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from client_side.config import ClientConfig
from client_side.folder import (
    FOLDER_KEY,
    SERVER_KEY,
    SETTINGS_FILE,
    ClientFolder,
    make_client_folder,
)
from lm.errors import LmError
from lm.telemetry import QUIET_ENVIRONMENT, switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError

_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "init":
                _init(options.folder)
            case "start":
                _start(options)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {error}")


def supernode_command(
    folder: ClientFolder,
    *,
    superlink: str,
    runtime_port: int,
    insecure: bool,
    root_certificates: Path | None = None,
    node_key: Path | None = None,
) -> list[str]:
    """Return the command that starts a SuperNode for a client's folder.

    Args:
        folder: The client's folder.
        superlink: Address of the server's SuperLink, host and port.
        runtime_port: Port on loopback at which the node's own client processes reach it.
        insecure: Speak without TLS; for loopback only.
        root_certificates: Certificate of the authority that signed the server's.
        node_key: Private key by which the server knows this node.

    Returns:
        Program and arguments.
    """
    command = [str(Path(sys.executable).parent / "flower-supernode"), "--superlink", superlink]
    command += ["--host", "127.0.0.1", "--port", str(runtime_port)]
    # The folder, and the address for the ledger's "to whom": both the operator's own words.
    node_config = f'{FOLDER_KEY}="{folder.path.resolve()}" {SERVER_KEY}="{superlink}"'
    command += ["--node-config", node_config]
    if insecure:
        command.append("--insecure")
    if root_certificates is not None:
        command += ["--root-certificates", str(root_certificates)]
    if node_key is not None:
        command += ["--auth-supernode-private-key", str(node_key)]
    return command


def supernode_environment(folder: ClientFolder) -> dict[str, str]:
    """Return the environment of a client's node: Flower's files apart, nothing sent home.

    Args:
        folder: The client's folder.

    Returns:
        A whole environment.
    """
    flower_home = folder.path.resolve() / "flower"
    flower_home.mkdir(parents=True, exist_ok=True)
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {
        **QUIET_ENVIRONMENT,
        **os.environ,
        "PATH": search_path,
        "FLWR_HOME": str(flower_home),
        "PYTHONUNBUFFERED": "1",
    }
    num_threads = folder.load_config().num_threads
    if num_threads is not None:
        # Before torch is imported this also bounds the threads that wait for work.
        environment["OMP_NUM_THREADS"] = str(num_threads)
    return environment


def _init(path: Path) -> None:
    if (path / SETTINGS_FILE).exists():
        raise ConfigurationError(
            f"Expected a new folder, found {path / SETTINGS_FILE}. Name another folder, or edit it."
        )
    folder = make_client_folder(path, ClientConfig())
    _LOGGER.info("Made %s. Now name your records in %s.", folder.path, folder.settings_file)


def _start(options: argparse.Namespace) -> None:
    folder = ClientFolder(path=options.folder)
    config = folder.load_config()
    # Privacy: noise that can be reproduced protects nobody; a real node never draws it.
    if config.budget.noise_seed is not None:
        raise ConfigurationError(
            f"Expected budget.noise_seed to be absent on a real node, got "
            f"{config.budget.noise_seed}. Remove it from {folder.settings_file}."
        )
    if options.root_certificates is None and not options.insecure:
        raise ConfigurationError(
            "Expected --root-certificates for TLS, got nothing. Name the certificate that the "
            "server's operator gave you, or pass --insecure on loopback."
        )
    command = supernode_command(
        folder,
        superlink=options.superlink,
        runtime_port=options.runtime_port,
        insecure=options.insecure,
        root_certificates=options.root_certificates,
        node_key=options.node_key,
    )
    _LOGGER.info("Starting the node of %s towards %s.", config.name, options.superlink)
    # Takes this process's place: signals and the exit code go straight to and from the node.
    os.execve(command[0], command, supernode_environment(folder))  # noqa: S606 - fixed program


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-client", description="Make a client's folder and start its node."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make a folder with settings and a key")
    init.add_argument("folder", type=Path, help="folder to make")
    start = commands.add_parser("start", help="start a node that answers from a folder")
    start.add_argument("folder", type=Path, help="the client's folder")
    start.add_argument("--superlink", required=True, help="the server's address, HOST:PORT")
    start.add_argument("--root-certificates", type=Path, help="certificate to check the server by")
    start.add_argument("--node-key", type=Path, help="private key by which the server knows us")
    start.add_argument("--runtime-port", type=int, default=9094, help="own port on loopback")
    start.add_argument("--insecure", action="store_true", help="no TLS; for loopback only")
    return parser


if __name__ == "__main__":
    main()
