"""`rewardds-client`: make a client's folder, join a server, check, and keep a node running.

The node is Flower's SuperNode. It connects out to the server's gateway and needs no open port
towards anybody else. Which folder it answers from is in its own node configuration, so nothing
that the server sends can point it elsewhere. `docs/deploying.md` tells the whole way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from client_side.config import ClientConfig
from client_side.folder import (
    FOLDER_KEY,
    SERVER_KEY,
    SIMULATED_VARIABLE,
    ClientFolder,
    check_findable,
    make_client_folder,
    private_file,
)
from lm.commented_settings import save_commented_settings
from lm.disk import in_words
from lm.errors import LmError
from lm.logs import last_word
from lm.paths import found_in, whole_or_nothing
from lm.telemetry import QUIET_ENVIRONMENT, switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError

_UNITS_FOR_EACH_DRAWN = 4
"""A new folder's batches draw a fourth of the units at most: drawing few is what hides them."""
# By name: run with `python -m`, this module is called `__main__`, and its log would be nobody's.
_LOGGER = logging.getLogger("client_side.node")
_HEAD = (
    "What this client decides: records, privacy unit, caps, training. Nothing here is ever taken",
    "from the server. Name your records (records.path), how many units they have by a round number",
    "(records.declared_size), and one public sentence about the domain (records.instruction).",
    "Trainings are sized for a base of 135M parameters on a CPU core; docs/deploying.md says what",
    "to raise with an accelerator. An unknown key is an error.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    options = _parser().parse_args(arguments)
    folder = ClientFolder(path=options.folder)
    try:
        match options.command:
            case "init":
                _init(folder, options)
            case "join":
                _join(folder, options.invitation)
            case "check":
                _check(folder, offline=options.offline, as_json=options.json)
            case "start":
                _start(folder)
            case "status":
                _status(folder, as_json=options.json)
            case "rotate-key":
                _rotate(folder)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(last_word(in_words(error, place=options.folder)))


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
    # Whole paths: the node works in the client's folder, and this was called from anywhere.
    command = [sys.executable, "-m", "client_side.flower_node", "--superlink", superlink]
    command += ["--host", "127.0.0.1", "--port", str(runtime_port)]
    # The folder, and the address for the ledger's "to whom": both the operator's own words.
    node_config = f'{FOLDER_KEY}="{folder.path.resolve()}" {SERVER_KEY}="{superlink}"'
    command += ["--node-config", node_config]
    if insecure:
        command.append("--insecure")
    if root_certificates is not None:
        command += ["--root-certificates", str(root_certificates.resolve())]
    if node_key is not None:
        command += ["--auth-supernode-private-key", str(node_key.resolve())]
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


def _init(folder: ClientFolder, options: argparse.Namespace) -> None:
    from client_side.network import make_node_files

    check_findable(folder)
    if found := found_in(folder.path):
        raise ConfigurationError(
            f"Expected a new folder, found {found}. Name another folder, or edit what is there."
        )
    config = ClientConfig()
    records = config.records
    if options.records is not None:
        records = replace(records, path=str(options.records.resolve()))
    if options.declared_size is not None:
        records = replace(records, declared_size=options.declared_size)
    most = max(1, records.declared_size // _UNITS_FOR_EACH_DRAWN)
    config = replace(
        config,
        name=options.name,
        records=records,
        generator=replace(
            config.generator, expected_batch_size=min(config.generator.expected_batch_size, most)
        ),
        reward_proxy=replace(
            config.reward_proxy,
            expected_batch_size=min(config.reward_proxy.expected_batch_size, most),
        ),
    )
    with whole_or_nothing(folder.path):
        make_client_folder(folder.path, config)
        with private_file(folder.settings_file) as part:
            save_commented_settings(config, part, head=_HEAD)
        spoken = make_node_files(folder)
    print(
        f"Made {folder.path}. Next:\n"
        f"  1. Name records, declared size and instruction in {folder.settings_file}.\n"
        f"  2. Give introduction.json to the server's operator; it holds no secret. Read its\n"
        f"     fingerprint aloud:  {spoken}\n"
        f"  3. rewardds-client join {folder.path} INVITATION\n"
        f"  4. rewardds-client check {folder.path}\n"
        f"  5. rewardds-client start {folder.path}"
    )


def _join(folder: ClientFolder, file: Path) -> None:
    from client_side.network import join
    from protocol.introductions import Invitation, read_introduction

    spoken = join(folder, read_introduction(Invitation, file))
    print(
        "Joined. The app bundle of your own sources is pinned. Ask the server's operator whether "
        f"the fingerprint is this one, and do not start if not:\n  {spoken}"
    )


def _check(folder: ClientFolder, *, offline: bool, as_json: bool) -> None:
    from client_side.checking import Verdict, check_client

    findings = check_client(folder, offline=offline)
    if as_json:
        print(json.dumps([dataclasses.asdict(item) for item in findings], indent=1))
    else:
        for item in findings:
            print(f"{item.verdict.value:<8} {item.name:<12} {item.text}")
    failed = [item.name for item in findings if item.verdict is Verdict.FAILED]
    if failed:
        sys.exit(f"Error: Expected all checks to pass, found trouble with: {', '.join(failed)}.")


def _start(folder: ClientFolder) -> None:
    from client_side.budget import BudgetLedger
    from client_side.checking import check_records
    from client_side.network import NodeFiles, load_node_key_pair
    from client_side.pinning import AT_WORK_VARIABLE, PIN_VARIABLE
    from client_side.request_checks import refuse_unsafe, refuse_unsafe_past
    from client_side.supervising import (
        Stop,
        at_work_file,
        keep_running,
        make_shims,
        running_file,
        stop_on_signals,
    )
    from lm.locks import held
    from lm.logs import LogLevel, set_up_logs

    config, files = folder.load_config(), NodeFiles(folder=folder)
    network = files.load()
    check_findable(folder)
    refuse_unsafe(config)
    refuse_unsafe_past(BudgetLedger(folder.ledger_folder).reservations())
    if not (network.server and network.bundle_sha256 and files.authority.is_file()):
        raise ConfigurationError(
            f"Expected {files.settings_file} to name a server and a pinned bundle, found less. "
            "Run `rewardds-client join` with the invitation of the server's operator."
        )
    load_node_key_pair(files.node_key)
    # Privacy: what is wrong with the records is told here, to their owner. Later it would be a
    # refusal that a server sees, which costs nothing and follows from what they hold.
    check_records(folder, config)
    set_up_logs("client_side", form=network.log_format, level=network.log_level)
    command = supernode_command(
        folder,
        superlink=network.server,
        runtime_port=network.runtime_port,
        insecure=False,
        root_certificates=files.authority,
        node_key=files.node_key,
    )
    environment = supernode_environment(folder)
    # Privacy: the checked client process, and no other program, is what the node finds first.
    environment["PATH"] = f"{make_shims(folder)}{os.pathsep}{environment['PATH']}"
    environment[PIN_VARIABLE] = network.bundle_sha256
    # Privacy: left over in an operator's shell, it would have this node count as a simulation's.
    environment.pop(SIMULATED_VARIABLE, None)
    environment[AT_WORK_VARIABLE] = str(at_work_file(folder).resolve())
    if network.log_level is LogLevel.DEBUG:
        environment["FLWR_LOG_LEVEL"] = "DEBUG"
    busy = ConfigurationError(
        f"Expected one node for {folder.path}, found another that runs. Stop it first."
    )
    with held(running_file(folder), busy=busy):
        _LOGGER.info("Starting the node of %s towards %s.", config.name, network.server)
        try:
            stop_on_signals()
            keep_running(folder, command, environment, restart_seconds=network.restart_seconds)
        except Stop:
            _LOGGER.info("Stopped.")


def _status(folder: ClientFolder, *, as_json: bool) -> None:
    from client_side.standing import describe, standing

    found = standing(folder)
    print(json.dumps(found, indent=1) if as_json else describe(found))


def _rotate(folder: ClientFolder) -> None:
    from client_side.network import rotate_node_key

    folder.load_config()  # so that a wrong folder is said to be one
    spoken = rotate_node_key(folder)
    print(
        "Made a new node key; the old one is node_key.old. Give the new introduction.json to the "
        "server's operator, who revokes the old one and allows this one, then start the node "
        f"again. Fingerprint:\n  {spoken}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-client", description="Make a client's folder and keep its node running."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    added = {}
    for name, text in (
        ("init", "make a folder with settings and keys"),
        ("join", "take over a server's invitation"),
        ("check", "would this node work? Sends nothing of its own"),
        ("start", "keep the node running until it is told to stop"),
        ("status", "how the node is, and what was spent"),
        ("rotate-key", "make a new node key"),
    ):
        added[name] = commands.add_parser(name, help=text, description=text)
        added[name].add_argument("folder", type=Path, help="the client's folder")
    added["init"].add_argument("--name", default="client", help="public name of this client")
    added["init"].add_argument("--records", type=Path, help="file with the private records")
    added["init"].add_argument(
        "--declared-size", type=int, help="public, round number of privacy units"
    )
    added["join"].add_argument("invitation", type=Path, help="invitation.json of the server")
    added["check"].add_argument("--offline", action="store_true", help="leave the server out")
    for name in ("check", "status"):
        added[name].add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    main()
