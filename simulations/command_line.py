"""What the commands that Hydra composes share: errors in one line, run folders, one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lm.disk import in_words
from lm.errors import LmError
from lm.settings import explain
from lm.telemetry import switch_off_telemetry
from protocol.errors import ConfigurationError, RewardDSError

# Absolute: a relative one would be looked for in another way by the installed command.
CONF: Final = Path(__file__).resolve().parent.parent / "conf"
"""Folder of all settings."""

RUNS: Final = Path("runs")
"""Folder of all runs, where the command is called."""

LOCK_FILE: Final = ".lock"
"""Held in a run's folder by the command that is at work there."""

_LATEST: Final = "latest"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./-]+")
"""What Hydra takes for a text as it stands, where it begins like a path."""
_TRACEBACK_VARIABLES: Final = ("REWARDDS_TRACEBACK", "HYDRA_FULL_ERROR")

_USERS_TO_MEND: Final = (
    RewardDSError,
    LmError,
    HydraException,
    OmegaConfBaseException,
    OSError,
    BrokenExecutor,  # of a launcher one of whose processes the system ended
)

_HELP_FLAGS: Final = frozenset({"-h", "--help"})

_failures: list[Exception] = []

_MAX_COLUMNS: Final = 80


def choices(command: str) -> str:
    """Return the groups of a command that leave a choice, with their options, for its help.

    Hydra's own list has the groups of every command, each in one line.

    Args:
        command: Name of its file in `conf/`.

    Returns:
        A paragraph for each group.
    """
    lines = []
    for default in OmegaConf.load(CONF / f"{command}.yaml").defaults:
        group = next(iter(default)) if OmegaConf.is_dict(default) else ""
        options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        if group and options not in ([], ["default"]):
            text = f"{group}: {', '.join(options)}"
            lines += textwrap.wrap(
                text, _MAX_COLUMNS, initial_indent="  ", subsequent_indent="    "
            )
    return "\n".join(lines)


OmegaConf.register_new_resolver("choices", choices)


def run_command_line(
    compose_and_run: Callable[[], None], *, command: str, on_interrupt: str
) -> None:
    """Run a command; an error that a user can act on is one line and a non-zero exit.

    Args:
        compose_and_run: Composes the settings and runs, its errors held by `failures_held`.
        command: Name of its file in `conf/`.
        on_interrupt: What to say after Ctrl-C.

    Raises:
        SystemExit: With 0 after the help, with 1 after an error that a user can act on, with 130
            after Ctrl-C.
        Exception: Any other error, as it was raised; those that a user can act on as well where
            `REWARDDS_TRACEBACK` or `HYDRA_FULL_ERROR` is 1 in the environment.
    """
    if _HELP_FLAGS & set(sys.argv[1:]):
        _show_help(command)
        sys.exit(0)
    switch_off_telemetry()
    wants_traceback = any(os.environ.get(name) == "1" for name in _TRACEBACK_VARIABLES)
    # Hydra then hands errors on to us in place of writing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        try:
            compose_and_run()
        except SystemExit:
            if not _failures:
                raise
        except ValueError as error:
            # Hydra's own, for a group or flags that make no sense: those of a run are held.
            raise HydraException(str(error)) from error
        if _failures:
            raise _failures[0]
    except _USERS_TO_MEND as error:
        if wants_traceback:
            raise
        print(f"Error: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"Interrupted. {on_interrupt}", file=sys.stderr)
        sys.exit(130)


def _show_help(command: str) -> None:
    """Show what Hydra would, in a third of its time.

    It lists the options of every group there is for each help, by a copy of all settings each,
    and then leaves the lists out, since ours is another.
    """
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose(command, return_hydra_config=True)
    print(composed.hydra.help.template)


@contextlib.contextmanager
def failures_held() -> Iterator[None]:
    """Keep an error for `run_command_line`; raised through Hydra, it would get lines of its own."""
    try:
        yield
    except Exception as error:
        hold_failure(error)


def hold_failure(error: Exception) -> None:
    """Make the command end with an error; the first one is shown."""
    _failures.append(error)


def new_run_folder(prefix: str = "") -> Path:
    """Make a folder in `runs/` that is named after the time.

    Args:
        prefix: Stands before the time.

    Returns:
        The new folder.

    Raises:
        ConfigurationError: No name is free.
    """
    name = prefix + datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    for number in range(1, 1000):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise ConfigurationError(f"Expected a free name like {RUNS / name}, found none. Try again.")


def point_latest_at(folder: Path) -> None:
    """Let `runs/latest` name the newest run or sweep.

    Args:
        folder: Its folder.
    """
    RUNS.mkdir(exist_ok=True)
    link, part = RUNS / _LATEST, RUNS / f".{_LATEST}.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(os.path.relpath(folder.resolve(), RUNS.resolve()))
    # Renaming replaces the link in one step: it always points at a run.
    part.replace(link)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a run's folder against any other command at work in it.

    Args:
        folder: The run's folder.

    Yields:
        Nothing.

    Raises:
        ConfigurationError: Another one is at work there.
    """
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"Expected to be alone in {folder}, found another command at work there. Wait "
                "until it ends, or name another run_folder."
            ) from None
        yield


def one_line(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, BrokenExecutor):
        return (
            "Expected the processes of all points to go on, found one that was ended from outside, "
            "most likely because memory ran out. With it all others ended. Each point goes on from "
            "its last whole stage, here with one at a time: "
            "rewardds-simulate resume=runs/latest hydra.launcher.n_jobs=1"
        )
    is_own = isinstance(error, (RewardDSError, LmError))
    # Hydra's word for a missing choice is an OSError too.
    if is_own or (isinstance(error, OSError) and not isinstance(error, HydraException)):
        return in_words(error)
    if isinstance(error, OverrideParseException):
        name = error.override.partition("=")[0] if "=" in error.override else "NAME"
        return (
            f"Expected NAME=VALUE, got {error.override!r}, which cannot be read. Put a value that "
            "has more than plain letters, digits and ._-/ in quotes, and the whole in others for "
            f"the shell: '{name}=\"a value\"'."
        )
    causes = [error, error.__cause__]
    text = "\n".join(str(cause) for cause in causes if cause is not None)
    if match := re.search(r"Could not override '([^']+)'", text):
        return f"Expected a known setting, got {match[1]}. See all settings with `--cfg job`."
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        options = re.search(r"Available options in .*?:\n((?:\t.*\n?)*)", text)
        listing = ", ".join(options[1].split()) if options else "another"
        return f"Expected {match[1]} to be one of {listing}, got {match[2]!r}. Choose one."
    for cause in causes:
        if isinstance(cause, OmegaConfBaseException):
            return explain(cause)
    lines = [line.strip().rstrip(".") for line in text.splitlines()]
    said = ". ".join(dict.fromkeys(line for line in lines if line))
    if isinstance(error, HydraException):
        return f"Expected settings that go together, got: {said}. See them with `--cfg job`."
    return f"{said}."


def quoted(value: str) -> str:
    r"""Write a text so that it is one value to Hydra, whatever stands in it.

    Args:
        value: The text, such as a path.

    Returns:
        What follows `NAME=`: the text itself, in quotes where it must be.

    >>> print(quoted("runs/mine"), quoted("John's runs, (1)"))
    runs/mine 'John\'s runs, (1)'
    """
    if _PLAIN.fullmatch(value):
        return value
    # Backslashes count only before a quote, where each is to be doubled.
    inner = re.sub(r"(\\*)'", r"\1\1\\'", value)
    trailing = len(inner) - len(inner.rstrip("\\"))
    return f"'{inner}{inner[len(inner) - trailing :]}'"
