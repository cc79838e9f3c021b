"""The folder of a run or audit: begun once with its settings, and gone on with by the same ones.

What lies in a folder that no run was begun in belongs to somebody else. Such a folder is refused
unless it is empty, because a run replaces what it finds under its own names. A start that fails
before anything was trained takes back what it wrote itself, by name, and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lm.settings import load_settings, save_settings
from protocol.errors import ConfigurationError
from server_side.provenance import PROVENANCE_FILE
from simulations.command_line import LOCK_FILE, alone_in, new_run_folder
from simulations.sweeps.points import POINT_FILE, TRACE_FILE

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SETTINGS_FILE: Final = "simulate.yaml"
"""The resolved settings of a run, in its folder."""
SELECTED_FOLDER: Final = "selected"
"""The run that a private selection shows, in its folder."""

# What a folder may hold in which no run was begun: notes on a point, and what a kill left behind.
_KNOWN: Final = (POINT_FILE, TRACE_FILE, LOCK_FILE)
_MAX_NAMES: Final = 3


def run_id_of(folder: Path) -> str:
    """Return the name that releases of a run are bound to: its folder's, where that can be one.

    Args:
        folder: The run's folder, whatever it is called.

    Returns:
        The folder's name, with a dash for what no name may have, and not too long for one.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name)
    return safe.lstrip("._-")[:64] or "run"


@contextlib.contextmanager
def begun_folder(
    config: DataclassInstance,
    *,
    named: Path | None,
    prefix: str = "",
    settings_file: str = SETTINGS_FILE,
    written: Sequence[str],
    is_begun: Callable[[Path], bool],
    note: Callable[[Path], None],
) -> Iterator[Path]:
    """Make a folder with its settings, or find that it was begun with the same ones.

    Args:
        config: The settings.
        named: The folder; None makes one in `runs/` that is named after the time.
        prefix: Stands before the time.
        settings_file: Where in the folder the settings are kept.
        written: Names of all that a start writes there before it is begun.
        is_begun: Says whether a start came so far that the folder is worth keeping.
        note: Notes this start in the folder.

    Yields:
        The folder. Where what follows fails and this start began the folder, it is taken back.

    Raises:
        ConfigurationError: It was begun with other settings, or holds what no run wrote.
    """
    is_made = named is None or not named.exists()
    folder = new_run_folder(prefix) if named is None else named
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / settings_file).is_file()
    if is_new:
        _require_empty(folder, settings_file)
    elif load_settings(type(config), folder / settings_file) != config:
        how = f"resume={folder}" if settings_file == SETTINGS_FILE else "the same settings"
        raise ConfigurationError(
            f"Expected the settings that {folder} was begun with, got others. Go on with {how}, "
            "or name another run_folder."
        )
    try:
        if is_new:
            part = folder / f".{settings_file}.part"
            save_settings(config, part)
            part.replace(folder / settings_file)
        note(folder)
        yield folder
    except BaseException:
        # A folder of a run that never began would only be in the way of the next one.
        if is_new and not is_begun(folder):
            names = [settings_file, PROVENANCE_FILE, *written]
            _take_back(folder, names=names, is_begun=is_begun, is_made=is_made)
        raise


def _require_empty(folder: Path, settings_file: str) -> None:
    found = sorted(
        item.name
        for item in folder.iterdir()
        if item.name not in _KNOWN and not item.name.endswith(".part")
    )
    if found:
        more = f" and {len(found) - _MAX_NAMES} more" if len(found) > _MAX_NAMES else ""
        raise ConfigurationError(
            f"Expected run_folder={folder} to be new or empty, or to hold a {settings_file} to go "
            f"on from, found {', '.join(found[:_MAX_NAMES])}{more} in it. Name another run_folder."
        )


def _take_back(
    folder: Path, *, names: Sequence[str], is_begun: Callable[[Path], bool], is_made: bool
) -> None:
    # Another command with the same settings may have gone on in the folder meanwhile.
    with contextlib.suppress(ConfigurationError), alone_in(folder):
        if is_begun(folder):
            return
        for name in names:
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (folder / LOCK_FILE).unlink(missing_ok=True)
        if is_made:
            with contextlib.suppress(OSError):  # somebody else put something there
                folder.rmdir()
