"""The folder of a sweep: what was asked for, and how far each of its points is.

```
sweep.json       overrides, commands and number of points; `resume=SWEEP` goes on from it
shared/          exchanges and stages that several points have in common
0/, 1/, …        one run each, as `rewardds-simulate` makes it, with point.json: its overrides and
                 whether it runs, is done or failed, and why
```

A point is written to by the process that holds its lock, and every file appears whole, so that
points may run side by side and be killed at any moment. A point that says `running` and is held by
nobody was cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from lm.locks import is_held
from lm.paths import found_in
from protocol.errors import ConfigurationError, RewardDSError
from server_side.whole_files import read_json

SWEEP_FILE: Final = "sweep.json"
"""What makes a folder the folder of a sweep."""

POINT_FILE: Final = "point.json"
"""What makes a folder a point of a sweep."""

SHARED_FOLDER: Final = "shared"
"""Where the points of a sweep keep what they have in common."""

TRACE_FILE: Final = "error.log"
"""Where in the program a point failed."""

_MAX_REASONS: Final = 4
_MAX_CHARS: Final = 300
_LOCK: Final = ".point.lock"
_HOLD_SECONDS: Final = 1.0


class SweepFailedError(RewardDSError):
    """Some points of a sweep are not done."""


class PointStatus(StrEnum):
    """How far a point is."""

    RUNNING = "running"
    """Begun, and at work or cut off."""
    DONE = "done"
    """Its results are there."""
    FAILED = "failed"
    """It ended with an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One point of a sweep."""

    overrides: tuple[str, ...]
    """Settings in which it differs from the defaults, as they were composed."""
    status: PointStatus = PointStatus.RUNNING
    """How far it is."""
    error: str | None = None
    """Why it failed."""
    ended: float | None = None
    """When it was done or failed, in seconds since 1970."""
    seconds: float = 0.0
    """How long it was at work, all starts together but for those that were cut off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What was asked for."""

    overrides: tuple[str, ...]
    """Words of the command that chose the points, and that `resume` takes up again."""
    num_points: int | None
    """Points in all; None where the sweeper does not say beforehand."""
    commands: tuple[tuple[str, ...], ...]
    """Every command that worked on it, oldest first."""
    started: float
    """When the newest of them began, in seconds since 1970."""


def read_sweep(folder: Path) -> Sweep | None:
    """Return what was asked for; None where the folder is no sweep's."""
    values = _read(folder / SWEEP_FILE)
    if values is None:
        return None
    commands = tuple(tuple(words) for words in values["commands"])
    return Sweep(**{**values, "overrides": tuple(values["overrides"]), "commands": commands})


def begin_sweep(
    folder: Path, *, overrides: Sequence[str], num_points: int | None, command: Sequence[str]
) -> None:
    """Note what is asked for, or that one more command works on it.

    Args:
        folder: The sweep's folder.
        overrides: Words of the command that choose the points.
        num_points: Points in all; None where the sweeper does not say beforehand.
        command: The whole command.

    Raises:
        ConfigurationError: Another sweep was begun in this folder, it holds something else, or the
            words name a run_folder.
    """
    before = read_sweep(folder)
    if before is None:
        _check_new(folder, overrides)
    elif _choosing(before.overrides) != _choosing(overrides) or before.num_points != num_points:
        # Points are numbered: others would be taken for done under the numbers of the old ones.
        raise ConfigurationError(
            f"Expected the sweep that {folder} was begun with ({' '.join(before.overrides)}), got "
            f"{' '.join(overrides)}. Go on with resume={folder}, or name another hydra.sweep.dir; "
            f"shared_folder={folder / SHARED_FOLDER} takes over what both have in common."
        )
    folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(
        overrides=before.overrides if before else tuple(overrides),
        num_points=num_points,
        commands=(*(before.commands if before else ()), tuple(command)),
        started=time.time(),
    )
    _write(folder / SWEEP_FILE, asdict(sweep))


def read_point(folder: Path) -> Point | None:
    """Return how far a point is; None where the folder is no point's."""
    values = _read(folder / POINT_FILE)
    if values is None:
        return None
    status, overrides = PointStatus(values["status"]), tuple(values["overrides"])
    return Point(**{**values, "status": status, "overrides": overrides})


def point_folders(sweep_folder: Path) -> list[Path]:
    """Return the folders of a sweep's points, in the order of their numbers."""
    found = [file.parent for file in sweep_folder.glob(f"*/{POINT_FILE}")]
    return sorted(found, key=lambda folder: [int(n) for n in re.findall(r"\d+", folder.name)])


def run_point(
    folder: Path,
    overrides: Sequence[str],
    do: Callable[[], None],
    *,
    describe_error: Callable[[Exception], str],
) -> str | None:
    """Do one point, unless it is done already; a failure is noted and takes nothing else down.

    Args:
        folder: The point's folder.
        overrides: Settings that make the point.
        do: Does it.
        describe_error: Says in one line what went wrong.

    Returns:
        Why it failed; None where it is done.

    Raises:
        ConfigurationError: Another process is at work on this very point, or the folder holds a
            point with other settings.
    """
    with _held(folder):
        before = read_point(folder)
        if before and before.overrides != tuple(overrides):
            raise ConfigurationError(
                f"Expected the point {folder} to be that of {' '.join(overrides)}, found it begun "
                f"with {' '.join(before.overrides)}. Name another hydra.sweep.dir."
            )
        if before and before.status is PointStatus.DONE:
            return None
        point = Point(
            overrides=tuple(overrides), seconds=before.seconds if before else 0.0
        )  # what an earlier start took counts as well
        _write(folder / POINT_FILE, asdict(point))
        started, error, trace = time.monotonic(), None, ""
        try:
            do()
        except Exception as caught:
            error, trace = describe_error(caught), traceback.format_exc()
        point = replace(
            point,
            status=PointStatus.FAILED if error else PointStatus.DONE,
            error=error,
            ended=time.time(),
            seconds=point.seconds + time.monotonic() - started,
        )
        if error:
            (folder / TRACE_FILE).write_text(trace, encoding="utf-8")
        else:
            (folder / TRACE_FILE).unlink(missing_ok=True)
        _write(folder / POINT_FILE, asdict(point))
        return error


def require_all_done(sweep_folder: Path) -> None:
    """Check that every point of a sweep is done.

    Args:
        sweep_folder: The sweep's folder.

    Raises:
        SweepFailedError: Some are not; it says which, and why.
    """
    points = {folder.name: read_point(folder) for folder in point_folders(sweep_folder)}
    reasons = [
        f"{name} ({' '.join(point.overrides)}): {_shortened(point.error or 'cut off')}"
        for name, point in points.items()
        if point is not None and point.status is not PointStatus.DONE
    ]
    if reasons:
        more = f" And {len(reasons) - _MAX_REASONS} more." if len(reasons) > _MAX_REASONS else ""
        raise SweepFailedError(
            f"Expected all {len(points)} points of {sweep_folder} to be done, found {len(reasons)} "
            f"that are not: {'; '.join(reasons[:_MAX_REASONS])}{more} Mend the cause and go on "
            f"with: rewardds-simulate resume={sweep_folder}"
        )


def _check_new(folder: Path, overrides: Sequence[str]) -> None:
    if named := [word for word in overrides if word.lstrip("+").startswith("run_folder=")]:
        raise ConfigurationError(
            f"Expected no run_folder in a sweep, whose points have folders of their own, got "
            f"{named[0]}. Name the sweep's folder: hydra.sweep.dir={named[0].partition('=')[2]}"
        )
    if found := found_in(folder):
        raise ConfigurationError(
            f"Expected hydra.sweep.dir={folder} to be new or empty, or to hold the {SWEEP_FILE} of "
            f"a sweep to go on with, found {found}. Name another hydra.sweep.dir."
        )


def _choosing(overrides: Sequence[str]) -> list[str]:
    """Leave out who launches the points: that chooses none of them."""
    return [
        word for word in overrides if not word.startswith(("hydra/launcher=", "hydra.launcher."))
    ]


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _MAX_CHARS else f"{reason[:_MAX_CHARS]}…"


def seconds_left(sweep_folder: Path) -> float | None:
    """Estimate how long a sweep still takes, asked by a point that is about to begin.

    Args:
        sweep_folder: The sweep's folder.

    Returns:
        Seconds, by what points took since the newest start and by how many are at work beside this
        one; None where no point is done yet, or nobody knows how many there are.
    """
    sweep = read_sweep(sweep_folder)
    if sweep is None or sweep.num_points is None:
        return None
    took: list[float] = []
    given: list[float] = []  # by each that is at work, to its point
    num_ended = 0
    for folder in point_folders(sweep_folder):
        point = read_point(folder)
        if point is not None and point.ended is not None:
            is_of_this_start = point.ended >= sweep.started
            # One that failed before this start is done again.
            num_ended += is_of_this_start or point.status is PointStatus.DONE
            if is_of_this_start:
                took.append(point.seconds)
        elif is_at_work(folder):
            given.append(time.time() - (folder / POINT_FILE).stat().st_mtime)
    if not took:
        return None
    whole = statistics.mean(took)
    awaited = whole * max(0, sweep.num_points - num_ended) - sum(min(g, whole) for g in given)
    return awaited / (len(given) + 1)


def is_at_work(folder: Path) -> bool:
    """Say whether a process holds a point at this moment."""
    return is_held(_lock_file(folder))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    give_up = time.monotonic() + _HOLD_SECONDS
    with _lock_file(folder).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Somebody who only asks whether the point is held holds it for a moment.
                if time.monotonic() < give_up:
                    time.sleep(_HOLD_SECONDS / 20)
                    continue
            raise ConfigurationError(
                f"Expected to be alone at the point {folder}, found another process at work on it. "
                "Wait until the other sweep ends, or name another hydra.sweep.dir."
            )
        yield


def _lock_file(folder: Path) -> Path:
    # Beside the folder: what is inside belongs to the run.
    return folder.with_name(f".{folder.name}{_LOCK}")


def _read(path: Path) -> Any | None:  # a JSON object
    if not path.is_file():
        return None
    return read_json(path)


def _write(path: Path, values: Mapping[str, object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
