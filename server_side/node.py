"""`rewardds-server`: make a server's folder, let clients in, collect releases, do the long work.

`collect` opens the door to clients, runs the exchange and ends; `finetune` turns what was admitted
into a tuned target and a report, apart from Flower and whenever it suits, and goes on where it was
cut off; `run` does both. One folder is one run. `docs/deploying.md` tells the whole way.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lm.disk import in_words
from lm.errors import LmError
from lm.logs import last_word, set_up_logs
from lm.paths import whole_or_nothing
from lm.telemetry import switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError
from protocol.introductions import Introduction, read_introduction
from server_side.config import ServerConfig
from server_side.exchange.certificates import make_authority, make_server_certificate
from server_side.exchange.clients import allow_client, read_register, revoke_client
from server_side.exchange.folder import ServerFolder, make_server_folder

# By name: run with `python -m`, this module is called `__main__`, and its log would be nobody's.
_LOGGER = logging.getLogger("server_side.node")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None takes those of this process.
    """
    switch_off_telemetry()
    options = _parser().parse_args(arguments)
    folder = ServerFolder(path=options.folder)
    try:
        match options.command:
            case "init":
                _init(options)
            case "invite":
                _invite(folder)
            case "allow-client":
                _allow(folder, options.introduction)
            case "revoke-client":
                revoke_client(folder.clients_folder, options.name)
                print(f"{options.name} is shut out from now on. What it released stays admitted.")
            case "renew":
                make_server_certificate(folder.tls_folder, host=folder.load_network().host)
                print("Made a new server certificate. Restart `rewardds-server collect` to use it.")
            case "check":
                _check_job(folder.load_config())
                print(
                    "Models, packages, test records and public prompts are here, as the settings "
                    "want them. The long work could begin."
                )
            case "collect":
                _begin(folder)
                _collect(folder)
            case "finetune":
                _begin(folder, check=_check_job)
                _finetune(folder)
            case "run":
                _begin(folder, check=_check_job)
                _collect(folder)
                _finetune(folder)
            case "status":
                _status(folder, as_json=options.json)
    except (RewardDSError, LmError, OSError) as error:
        if os.environ.get("REWARDDS_TRACEBACK") == "1":
            raise
        sys.exit(last_word(in_words(error, place=options.folder)))
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


def _init(options: argparse.Namespace) -> None:
    with whole_or_nothing(options.folder):
        folder = make_server_folder(options.folder, host=options.host, port=options.port)
        make_authority(folder.tls_folder, name=options.host)
        make_server_certificate(folder.tls_folder, host=options.host)
    print(
        f"Made {folder.path}. Next:\n"
        f"  1. Name models and test records in {folder.settings_file},\n"
        f"     and see whether they fit: rewardds-server check {folder.path}\n"
        f"  2. rewardds-server invite {folder.path}\n"
        "     and give invitation.json to each client's operator.\n"
        f"  3. rewardds-server allow-client {folder.path} INTRODUCTION\n"
        "     for the introduction.json that each of them gives you.\n"
        f"  4. rewardds-server run {folder.path}"
    )


def _invite(folder: ServerFolder) -> None:
    from server_side.exchange.inviting import write_invitation

    spoken = write_invitation(folder)
    print(
        f"Wrote {folder.invitation_file}; it holds no secret. Read its fingerprint to the client's "
        f"operator by voice:\n  {spoken}"
    )


def _allow(folder: ServerFolder, file: Path) -> None:
    folder.load_network()  # so that a wrong folder is said to be one
    introduction = read_introduction(Introduction, file)
    spoken = allow_client(folder.clients_folder, introduction)
    print(
        f"{introduction.client_name} may connect the next time that `collect` starts. Ask its "
        f"operator whether the fingerprint is this one, and revoke it if not:\n  {spoken}"
    )


def _begin(
    folder: ServerFolder, *, check: Callable[[ServerConfig], None] = lambda _config: None
) -> None:
    from server_side.provenance import later_sources, note_start

    network = folder.load_network()
    set_up_logs("server_side", form=network.log_format, level=network.log_level)
    check(folder.load_config())  # a start that is refused for its settings has begun nothing
    note_start(folder.path, ["rewardds-server", *sys.argv[1:]], digests={})
    for text in later_sources(folder.path):
        _LOGGER.warning("%s", text)


def _check_job(config: ServerConfig) -> None:
    from server_side.job_checks import check_job  # reads tables, which `--help` should not wait for

    check_job(config)


def _collect(folder: ServerFolder) -> None:
    from server_side.children import raise_on_signals
    from server_side.exchange.serving import collect_from_clients

    raise_on_signals()
    collect_from_clients(folder)


def _finetune(folder: ServerFolder) -> None:
    # Only now: these take seconds to import, and `--help` should not.
    from server_side.exchange.collecting import load_collected
    from server_side.memory import set_aside_imports
    from server_side.pipeline import run_pipeline
    from server_side.provenance import finish_provenance

    path = folder.path.resolve()
    config = folder.load_config()
    register = read_register(folder)
    admitted = load_collected(
        config,
        run_id=folder.run_id(),
        run_folder=path,
        client_keys=register.signing_keys if register else None,
    )
    if not admitted:
        raise ConfigurationError(
            f"Expected admitted releases in {path / 'releases'}, found none. Run `rewardds-server "
            "collect` on this folder first."
        )
    set_aside_imports()
    run_pipeline(admitted, config=config, run_folder=path, progress=LoggedProgress())
    finish_provenance(path)
    _LOGGER.info("Report: %s", path / "report.html")


def _status(folder: ServerFolder, *, as_json: bool) -> None:
    from server_side.exchange.standing import describe, standing

    found = standing(folder)
    print(json.dumps(found, indent=1) if as_json else describe(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rewardds-server", description="Collect releases and tune a target model on them."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    added = {}
    for name, text in (
        ("init", "make a folder with settings and certificates"),
        ("invite", "write the file that a client's operator needs"),
        ("allow-client", "let a client in"),
        ("revoke-client", "shut a client out"),
        ("renew", "make a new server certificate, by the same authority"),
        ("check", "could the long work be done on this machine? asks no client"),
        ("collect", "the exchange with clients"),
        ("finetune", "the long work, over admitted releases"),
        ("run", "collect, then finetune"),
        ("status", "how far this run is"),
    ):
        added[name] = commands.add_parser(name, help=text, description=text)
        added[name].add_argument("folder", type=Path, help="the server's folder")
    added["init"].add_argument(
        "--host", required=True, help="name or address by which clients reach this server"
    )
    added["init"].add_argument("--port", type=int, default=9443, help="port that clients reach")
    added["allow-client"].add_argument(
        "introduction", type=Path, help="introduction.json of the client"
    )
    added["revoke-client"].add_argument("name", help="name of the client")
    added["status"].add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    main()
