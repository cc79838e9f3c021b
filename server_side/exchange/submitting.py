"""Start a SuperLink, hand it the exchange, and see it through to its end.

The server's operator and a simulation do the same here: profile and app bundle live in the run
folder, nothing in the user's own Flower settings is read or changed, and success is what the
ServerApp wrote and Flower confirms, never an exit code of `flwr run`, which is 0 in any case.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lm.telemetry import QUIET_ENVIRONMENT
from protocol.bundle import stage_app
from protocol.errors import ExchangeError
from server_side.app import FOLDER_VARIABLE
from server_side.exchange.certificates import TlsFiles
from server_side.exchange.collecting import Waiting
from server_side.exchange.outcome import OUTCOME_FILE, RunLostError, read_outcome

_PROFILE: Final = "exchange"
_COMMAND_SECONDS: Final = 60.0
_CONFIRM_EVERY_SECONDS: Final = 15.0
_NUM_SUBMISSIONS: Final = 3
_NUM_LOG_LINES: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A SuperLink that is to carry an exchange."""

    run_folder: Path
    """The server's run folder."""
    host: str
    """Address it listens on."""
    port: int
    """Port it listens on."""
    flower_home: Path
    """Flower's folder for this party alone."""
    tls: TlsFiles | None = None
    """None speaks without TLS, which is for loopback only."""
    options: tuple[str, ...] = ()
    """Further arguments of the SuperLink."""

    @property
    def command(self) -> list[str]:
        """Program and arguments that start it."""
        command = [program("flower-superlink"), "--host", self.host, "--port", str(self.port)]
        command += self.options
        if self.tls is None:
            return [*command, "--insecure"]
        command += ["--ssl-ca-certfile", str(self.tls.authority.resolve())]
        command += ["--ssl-certfile", str(self.tls.certificate.resolve())]
        return [*command, "--ssl-keyfile", str(self.tls.key.resolve())]

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return the environment of the SuperLink and of the commands that speak to it."""
        return {
            **party_environment(self.flower_home),
            FOLDER_VARIABLE: str(self.run_folder.resolve()),
        }


def program(name: str) -> str:
    """Return the path of a program that was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def party_environment(flower_home: Path) -> dict[str, str]:
    """Return this process's environment, with Flower's files kept apart and nothing sent home.

    Args:
        flower_home: Folder for Flower's own files of one party; made if absent.

    Returns:
        A whole environment.
    """
    flower_home.mkdir(parents=True, exist_ok=True)
    search_path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {
        **QUIET_ENVIRONMENT,
        **os.environ,
        "PATH": search_path,
        "FLWR_HOME": str(flower_home.resolve()),
        # What a child logs shows up when it is logged.
        "PYTHONUNBUFFERED": "1",
    }


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(link: Link, *, seconds: float, check: Callable[[], None]) -> None:
    """Wait until the SuperLink listens.

    Args:
        link: The SuperLink.
        seconds: How long at most.
        check: Called again and again; raises when there is nothing to wait for any more.

    Raises:
        ExchangeError: It does not listen in time.
    """
    give_up = time.monotonic() + seconds
    while True:
        check()
        try:
            with socket.create_connection((link.host, link.port), timeout=1.0):
                return
        except OSError:
            if time.monotonic() > give_up:
                raise ExchangeError(
                    f"Expected a SuperLink at {link.address} within {seconds:g} s, found none. "
                    "See its log in the run folder."
                ) from None
            time.sleep(0.1)


def write_profile(link: Link) -> None:
    """Write Flower's settings by which the commands here find the SuperLink.

    Args:
        link: The SuperLink.
    """
    trust = "insecure = true"
    if link.tls is not None:
        trust = f'root-certificates = "{link.tls.authority.resolve()}"'
    profile = (
        f'[superlink]\ndefault = "{_PROFILE}"\n\n'
        f'[superlink.{_PROFILE}]\naddress = "{link.address}"\n{trust}\n'
    )
    (link.flower_home / "config.toml").write_text(profile, encoding="utf-8")


def stop_unfinished(link: Link) -> None:
    """Stop what an earlier start left under way; its ServerApp ended with that start.

    Args:
        link: The SuperLink.
    """
    runs = _flwr(link, "ls", _PROFILE).get("runs")
    for run in runs if isinstance(runs, list) else []:
        if not str(run.get("status", "")).startswith("finished"):
            _flwr(link, "stop", str(run["run-id"]), _PROFILE)


def submit(
    link: Link, *, run_id: str, waiting: Waiting, federation: Mapping[str, object] | None = None
) -> str:
    """Bundle the app and hand it to the SuperLink.

    Args:
        link: The SuperLink.
        run_id: Name of the run, to which releases are bound.
        waiting: How long the ServerApp waits for whom.
        federation: Settings of Flower's simulation engine, where that is what runs.

    Returns:
        Flower's own number of the run.

    Raises:
        RunLostError: The SuperLink does not take it.
        ConfigurationError: The sources of the app cannot be found.
    """
    (link.run_folder / OUTCOME_FILE).unlink(missing_ok=True)
    write_profile(link)
    app_folder = stage_app(link.run_folder / "app")
    settings = {
        "run-id": f'"{run_id}"',
        "num-clients": waiting.num_clients,
        "wait-seconds": round(waiting.wait_seconds),
        "hello-seconds": round(waiting.hello_seconds),
        "deadline-seconds": round(waiting.deadline_seconds),
    }
    arguments = ["run", str(app_folder), _PROFILE, "--run-config", _joined(settings)]
    if federation is not None:
        arguments += ["--federation-config", _joined(federation)]
    answer: Mapping[str, object] = {}
    for _ in range(_NUM_SUBMISSIONS):
        answer = _flwr(link, *arguments)
        if answer.get("success"):
            return str(answer["run-id"])
        time.sleep(1.0)
        # A command that was given up on, for it took too long, may have handed it over all the
        # same; clients that two runs ask at once would refuse one of them.
        stop_unfinished(link)
    raise RunLostError(
        f"Expected the SuperLink at {link.address} to take the run, found: "
        f"{_one_line(answer.get('error-message'))} See its log in the run folder."
    )


def wait_for_outcome(
    link: Link,
    flower_run: str,
    *,
    seconds: float,
    poll_seconds: float,
    check: Callable[[], None],
) -> Mapping[str, object]:
    """Wait until the exchange is over.

    Args:
        link: The SuperLink.
        flower_run: Flower's own number of the run.
        seconds: How long at most.
        poll_seconds: How often to look.
        check: Called at each look; raises when a process that is needed is gone.

    Returns:
        The outcome that the ServerApp wrote.

    Raises:
        RunLostError: Flower gave it up without an outcome.
        ExchangeError: It failed, or it is not over in time.
    """
    give_up = time.monotonic() + seconds
    confirm_at = time.monotonic() + _CONFIRM_EVERY_SECONDS
    while True:
        check()
        outcome = read_outcome(link.run_folder, flower_run=flower_run)
        if outcome is not None:
            if outcome["error"] is not None:
                raise ExchangeError(str(outcome["error"]))
            return outcome
        # A ServerApp that died without a word is known to Flower alone.
        if time.monotonic() > confirm_at:
            status = _status(link, flower_run)
            outcome = read_outcome(link.run_folder, flower_run=flower_run)
            if status.startswith("finished") and outcome is None:
                raise RunLostError(
                    f"Expected the exchange to end with an outcome, found Flower's status "
                    f"{status!r}. The end of its log: {_log_tail(link, flower_run)}"
                )
            confirm_at = time.monotonic() + _CONFIRM_EVERY_SECONDS
        if time.monotonic() > give_up:
            raise ExchangeError(
                f"Expected the exchange to be over within {seconds:g} s, found it under way. "
                "Raise the deadline, or see the clients' logs for what keeps them."
            )
        time.sleep(poll_seconds)


def _status(link: Link, flower_run: str) -> str:
    answer = _flwr(link, "ls", _PROFILE, "--run-id", flower_run)
    runs = answer.get("runs")
    if not isinstance(runs, list) or not runs:
        return "unknown"
    return str(runs[0].get("status", "unknown"))


def _log_tail(link: Link, flower_run: str) -> str:
    """Fetch the last lines of what the ServerApp printed; Flower keeps them, not the folder."""
    try:
        done = _call(link, "log", flower_run, _PROFILE, "--show")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none ({type(error).__name__})."
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return "".join(f"\n  | {line}" for line in lines[-_NUM_LOG_LINES:]) or "empty."


def _flwr(link: Link, *arguments: str) -> Mapping[str, object]:
    """Call Flower's command line and return its JSON; anything else counts as a failure."""
    try:
        done = _call(link, *arguments, "--format", "json")
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"success": False, "error-message": type(error).__name__}
    assert isinstance(answer, dict)
    return answer


def _call(link: Link, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Fixed program and arguments; nothing in them comes from the wire.
    return subprocess.run(  # noqa: S603
        [program("flwr"), *arguments],
        env=link.environment(),
        cwd=link.run_folder,
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )


def _joined(settings: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if line.endswith(".") else f"{line}."
